#include "model/checkpoint/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/checkpoint/quantised.h"

namespace plimsoll {
namespace {

template <typename T>
T read_at(std::span<const std::byte> bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

int64_t num_elements(const TensorView& tensor) {
  return static_cast<int64_t>(tensor.bytes.size()) / dtype_bytes(tensor.dtype);
}

bool is_quantised(const TensorView& tensor) {
  return tensor.dtype == Dtype::kF8E4m3 || tensor.dtype == Dtype::kI8;
}
bool is_plain(const TensorView& tensor) {
  return tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kBf16;
}
bool is_scale(const TensorView& tensor) {
  return tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kF8E8m0;
}

// What is_plain or is_scale.
std::vector<float> decode_plain(const TensorView& tensor) {
  std::vector<float> values(num_elements(tensor));
  for (size_t i = 0; i < values.size(); ++i) {
    switch (tensor.dtype) {
      case Dtype::kF32:
        values[i] = read_at<float>(tensor.bytes, i);
        break;
      case Dtype::kBf16:
        values[i] = decode_bf16(read_at<uint16_t>(tensor.bytes, i));
        break;
      default:
        values[i] = decode_e8m0(static_cast<uint8_t>(tensor.bytes[i]));
    }
  }
  return values;
}

// The form of a quantised matrix and of its scales.
struct Blocks {
  std::vector<int64_t> stored;
  std::vector<int64_t> scales;
};

Result<Blocks> blocks_of(Dtype dtype, std::span<const int64_t> shape) {
  if (shape.size() != 2) return unsupported("is quantised, but not a matrix");
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  if (dtype == Dtype::kF8E4m3) {
    return Blocks{{shape[0], shape[1]},
                  {ceil_div(shape[0], kFp8BlockSize), ceil_div(shape[1], kFp8BlockSize)}};
  }
  if (shape[1] % kFp4BlockSize != 0) {
    return unsupported("is FP4, but its " + std::to_string(shape[1]) +
                       " inputs are no multiple of " + std::to_string(kFp4BlockSize));
  }
  return Blocks{{shape[0], shape[1] / 2}, {shape[0], shape[1] / kFp4BlockSize}};
}

}  // namespace

std::string scale_name(const std::string& name) {
  const std::string suffix = ".weight";
  const bool has_suffix = name.ends_with(suffix);
  return (has_suffix ? name.substr(0, name.size() - suffix.size()) : name) + ".scale";
}

Result<Checkpoint> Checkpoint::open(const std::string& model_dir) {
  Checkpoint checkpoint;
  Result<ModelConfig> config = load_config(model_dir);
  if (!config.ok()) return config.error();
  checkpoint.config_ = std::move(*config);
  Result<Safetensors> tensors = Safetensors::open(model_dir);
  if (!tensors.ok()) return tensors.error();
  checkpoint.tensors_ = std::move(*tensors);
  return checkpoint;
}

Result<const TensorView*> Checkpoint::find(const std::string& name,
                                           std::span<const int64_t> shape) const {
  const TensorView* tensor = tensors_.find(name);
  if (tensor == nullptr) {
    return invalid_argument("the checkpoint has no tensor " + name + "; expected one of shape " +
                            shape_to_string(shape));
  }
  if (!std::ranges::equal(tensor->shape, shape)) {
    return invalid_argument("tensor " + name + " is " + to_string(*tensor) + ", expected shape " +
                            shape_to_string(shape));
  }
  return tensor;
}

Result<Checkpoint::Stored> Checkpoint::locate(const std::string& name,
                                              std::span<const int64_t> shape) const {
  Stored stored;
  stored.values = tensors_.find(name);
  if (stored.values == nullptr || !is_quantised(*stored.values)) {
    const Result<const TensorView*> values = find(name, shape);
    if (!values.ok()) return values.error();
    if (!is_plain(**values)) {
      return unsupported("tensor " + name + " is " + to_string(**values) +
                         ", expected F32, BF16, F8_E4M3 or packed FP4 in I8");
    }
    return stored;
  }
  const Result<Blocks> blocks = blocks_of(stored.values->dtype, shape);
  if (!blocks.ok()) {
    return Error{blocks.error().code, "tensor " + name + " " + blocks.error().message};
  }
  const Result<const TensorView*> values = find(name, blocks->stored);
  if (!values.ok()) return values.error();
  const Result<const TensorView*> scales = find(scale_name(name), blocks->scales);
  if (!scales.ok()) return scales.error();
  if (!is_scale(**scales)) {
    return unsupported("tensor " + scale_name(name) + " is " + to_string(**scales) +
                       ", expected F8_E8M0 or F32");
  }
  stored.scales = *scales;
  return stored;
}

Status Checkpoint::check(const std::string& name, std::span<const int64_t> shape) const {
  const Result<Stored> stored = locate(name, shape);
  if (!stored.ok()) return stored.error();
  return ok_status();
}

Result<std::vector<float>> Checkpoint::load(const std::string& name,
                                            std::span<const int64_t> shape) const {
  const Result<Stored> stored = locate(name, shape);
  if (!stored.ok()) return stored.error();
  std::vector<float> values;
  if (stored->scales == nullptr) {
    values = decode_plain(*stored->values);
  } else {
    const std::vector<float> scales = decode_plain(*stored->scales);
    const auto decode =
        stored->values->dtype == Dtype::kF8E4m3 ? decode_fp8_blocks : decode_fp4_blocks;
    values = decode(stored->values->bytes, scales, shape[0], shape[1]);
  }
  const auto bad = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
  if (bad != values.end()) {
    return corrupt_file("tensor " + name + " holds a value that is not finite, at element " +
                        std::to_string(bad - values.begin()));
  }
  return values;
}

Result<std::vector<int32_t>> Checkpoint::load_ids(const std::string& name,
                                                  std::span<const int64_t> shape,
                                                  int64_t limit) const {
  const Result<const TensorView*> tensor = find(name, shape);
  if (!tensor.ok()) return tensor.error();
  const TensorView& view = **tensor;
  if (view.dtype != Dtype::kI64 && view.dtype != Dtype::kI32) {
    return invalid_argument("tensor " + name + " is " + to_string(view) + ", expected I64 or I32");
  }
  std::vector<int32_t> ids(num_elements(view));
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t id = view.dtype == Dtype::kI64 ? read_at<int64_t>(view.bytes, i)
                                                 : read_at<int32_t>(view.bytes, i);
    if (id < 0 || id >= limit) {
      return corrupt_file("tensor " + name + " holds " + std::to_string(id) +
                          ", expected values from 0 to " + std::to_string(limit - 1));
    }
    ids[i] = static_cast<int32_t>(id);
  }
  return ids;
}

}  // namespace plimsoll
