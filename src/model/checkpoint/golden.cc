#include "model/checkpoint/golden.h"

#include <algorithm>
#include <cstring>

#include "model/checkpoint/safetensors.h"

namespace plimsoll {
namespace {

// Reads the tensors of one prompt and keeps the first complaint.
class PromptReader {
 public:
  PromptReader(const Safetensors& file, size_t prompt_idx)
      : file_(file), prefix_(std::to_string(prompt_idx) + ".") {}

  const std::string& complaint() const { return complaint_; }

  // A shape of -1 takes any size.
  std::vector<float> floats(const char* name, std::vector<int64_t> shape) {
    const TensorView* tensor = find(name, shape);
    if (tensor == nullptr) return {};
    if (tensor->dtype != Dtype::kF32) return complain(name, *tensor, "F32"), std::vector<float>();
    std::vector<float> values(tensor->bytes.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
    return values;
  }

  template <typename T>
  std::vector<T> integers(const char* name, std::vector<int64_t> shape, int64_t limit) {
    const TensorView* tensor = find(name, shape);
    if (tensor == nullptr) return {};
    if (tensor->dtype != Dtype::kI16 && tensor->dtype != Dtype::kI32 &&
        tensor->dtype != Dtype::kI64) {
      return complain(name, *tensor, "I16, I32 or I64"), std::vector<T>();
    }
    std::vector<T> values;
    const int size = dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < tensor->bytes.size(); i += size) {
      int64_t value = 0;
      std::memcpy(&value, tensor->bytes.data() + i, size);
      if (value >> (8 * size - 1) != 0 || value >= limit) {
        complain(name, *tensor, "values from 0 to " + std::to_string(limit - 1));
        return {};
      }
      values.push_back(static_cast<T>(value));
    }
    return values;
  }

 private:
  const TensorView* find(const char* name, const std::vector<int64_t>& shape) {
    if (!complaint_.empty()) return nullptr;
    const TensorView* tensor = file_.find(prefix_ + name);
    if (tensor == nullptr) {
      complaint_ = "has no tensor " + prefix_ + name;
      return nullptr;
    }
    const bool fits = std::ranges::equal(tensor->shape, shape, [](int64_t found, int64_t expected) {
      return expected < 0 || found == expected;
    });
    if (!fits) {
      complain(name, *tensor, "shape " + shape_to_string(shape));
      return nullptr;
    }
    return tensor;
  }

  void complain(const char* name, const TensorView& tensor, const std::string& expected) {
    complaint_ = "tensor " + prefix_ + name + " is " + to_string(tensor) + ", expected " + expected;
  }

  const Safetensors& file_;
  std::string prefix_;
  std::string complaint_;
};

}  // namespace

int64_t greedy_padding_tokens(const GoldenPrompt& prompt) {
  const auto first_text =
      std::ranges::find_if(prompt.input_ids, [](int32_t id) { return id != 0; });
  return first_text - prompt.input_ids.begin();
}

Result<std::vector<GoldenPrompt>> load_golden(const std::string& path, const ModelConfig& config) {
  const Result<Safetensors> file = Safetensors::open(path);
  if (!file.ok()) return file.error();
  std::vector<GoldenPrompt> prompts;
  while (file->find(std::to_string(prompts.size()) + ".input_ids") != nullptr) {
    PromptReader read(*file, prompts.size());
    GoldenPrompt prompt;
    prompt.input_ids = read.integers<int32_t>("input_ids", {-1}, config.vocab_size);
    const auto n = static_cast<int64_t>(prompt.input_ids.size());
    prompt.logits_positions = read.integers<int64_t>("logits_positions", {-1}, n);
    const auto num_positions = static_cast<int64_t>(prompt.logits_positions.size());
    prompt.logits = read.floats("logits", {num_positions, config.vocab_size});
    prompt.nll = read.floats("nll", {n - 1});
    prompt.expert_ids = read.integers<int32_t>(
        "expert_ids", {config.num_hidden_layers, n, config.num_experts_per_tok},
        config.n_routed_experts);
    prompt.greedy = read.integers<int32_t>("greedy", {-1}, config.vocab_size);
    if (!read.complaint().empty()) return invalid_argument(path + ": " + read.complaint());
    if (n == 0) return invalid_argument(path + ": a prompt has no tokens");
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) {
    return invalid_argument(path +
                            " holds no golden answers; expected tensors 0.input_ids, "
                            "0.logits, 0.nll, 0.expert_ids, 0.greedy, then 1.input_ids and so on");
  }
  return prompts;
}

}  // namespace plimsoll
