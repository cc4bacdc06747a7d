#include "record/recording_reader.h"

#include <algorithm>
#include <limits>

#include "record/counts.h"
#include "record/formats/file_io.h"

namespace plimsoll {
namespace {

Error at(const std::string& place, const Error& error) {
  return {error.code, place + " " + error.message};
}

// Integers of a list, or of a tensor that stands in for one. None is an empty list.
Result<std::vector<int32_t>> int_list(const PtFile& file, const PtValue& dict, const char* key) {
  std::vector<int32_t> values;
  const auto value = dict.find(key);
  const Error wrong = corrupt_file(std::string(key) + " is no list of 32-bit integers");
  if (!value || value->is_none()) return values;
  if (!value->is_list() && !value->as_tensor()) return wrong;
  const auto append = [&](int64_t number) {
    values.push_back(static_cast<int32_t>(number));
    return number == values.back();
  };
  for (size_t i = 0; i < value->list_size(); ++i) {
    const auto number = value->item(i).as_int();
    if (!number || !append(*number)) return wrong;
  }
  if (!value->as_tensor()) return values;
  const Result<NumberArray> numbers = numbers_of(file, *value->as_tensor());
  if (!numbers.ok()) return at(key, numbers.error());
  return std::ranges::all_of(numbers->values, append) ? Result(values) : wrong;
}

// Adds up the counts of an expert's copies.
Status add_physical_counts(const NumberArray& counts, const Records& records, RecordedPass& pass) {
  const ExpertMap& map = records.map;
  if (counts.shape != std::vector<int64_t>{map.num_layers, map.num_physical_experts}) {
    return corrupt_file("global_physical_count has shape " + shape_to_text(counts.shape) +
                        ", but last_physical_to_logical_map has [" +
                        std::to_string(map.num_layers) + ", " +
                        std::to_string(map.num_physical_experts) + "]");
  }
  const size_t num_experts = records.about.num_logical_experts;
  std::vector<int64_t> sums(map.num_layers * num_experts, 0);
  for (size_t i = 0; i < counts.values.size(); ++i) {
    constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
    if (counts.values[i] < 0 || counts.values[i] > kMaxCount) {
      return corrupt_file("global_physical_count holds " + std::to_string(counts.values[i]));
    }
    int64_t& sum = sums[i / map.num_physical_experts * num_experts + map.physical_to_logical[i]];
    sum = std::min(sum + counts.values[i], kMaxCount);
  }
  pass.counts.assign(sums.begin(), sums.end());
  return ok_status();
}

// [layers, tokens, k] of physical ids, made logical.
Status add_topk_ids(const NumberArray& topk, const Records& records, RecordedPass& pass) {
  const ExpertMap& map = records.map;
  if (topk.shape.size() != 3 || topk.shape[0] != map.num_layers || topk.shape[2] < 1 ||
      topk.shape[2] != records.about.top_k) {
    return corrupt_file("topk_ids_of_layer has shape " + shape_to_text(topk.shape) +
                        "; expected [layers, tokens, k], alike in all records");
  }
  pass.num_tokens = topk.shape[1];
  pass.topk_ids.reserve(topk.values.size());
  const size_t layer_size = topk.values.size() / map.num_layers;
  for (size_t i = 0; i < topk.values.size(); ++i) {
    const int64_t slot = topk.values[i];
    if (slot < -1 || slot >= map.num_physical_experts) {
      return corrupt_file("topk_ids_of_layer names the physical expert " + std::to_string(slot));
    }
    const size_t row = i / layer_size * map.num_physical_experts;
    pass.topk_ids.push_back(slot < 0 ? -1 : map.physical_to_logical[row + slot]);
  }
  return ok_status();
}

int64_t num_elements(const PtValue& record, const char* key) {
  const auto value = record.find(key);
  const PtTensor* tensor = value ? value->as_tensor() : nullptr;
  int64_t product = tensor ? 1 : 0;
  for (size_t d = 0; tensor && d < tensor->shape.size(); ++d) product *= tensor->shape[d];
  return product;
}

}  // namespace

Result<NumberArray> numbers_at(const PtFile& file, const PtValue& dict, const std::string& key) {
  const auto value = dict.find(key);
  if (!value) return corrupt_file("lacks the key " + key);
  if (!value->as_tensor()) return corrupt_file(key + " is no tensor");
  Result<NumberArray> numbers = numbers_of(file, *value->as_tensor());
  if (!numbers.ok()) return at(key, numbers.error());
  return numbers;
}

Result<LoadedCounts> read_counts(const PtFile& file,
                                 const PtTensor& tensor,
                                 const LoadOptions& options) {
  const Result<CountsShape> shape = counts_shape_of(tensor.shape);
  if (!shape.ok()) return shape.error();
  CountsBuilder builder(*shape, options.only_total);
  int64_t num_read = 0;
  const auto add = [&](const NumberArray& step) {
    builder.note_rounding(step.rounded);
    if (options.progress) options.progress(++num_read, shape->num_steps);
    return builder.add(step.values);
  };
  PtTensor steps = tensor;
  if (steps.shape.size() == 2) {
    steps.shape.insert(steps.shape.begin(), 1);
    steps.strides.insert(steps.strides.begin(), tensor.shape[0] * tensor.strides[0]);
  }
  if (Status read = for_each_slice(file, steps, add); !read.ok()) return read.error();
  return builder.finish();
}

Result<Records> read_records_header(const PtFile& file) {
  const PtValue list = file.root().find("records").value_or(file.root());
  if (!list.is_list()) return corrupt_file("records is no list");
  const Result<NumberArray> numbers = numbers_at(file, file.root(), "last_physical_to_logical_map");
  if (!numbers.ok()) return numbers.error();
  Result<ExpertMap> map = map_of(*numbers);
  if (!map.ok()) return at("last_physical_to_logical_map", map.error());

  Records records{.map = std::move(*map)};
  Recording& about = records.about;
  about.num_layers = records.map.num_layers;
  about.num_logical_experts = std::ranges::max(records.map.physical_to_logical) + 1;
  const auto first = list.list_size() > 0 ? std::optional(list.item(0)) : std::nullopt;
  const auto topk = first ? first->find("topk_ids_of_layer") : std::nullopt;
  about.mode = topk ? RecorderMode::kPerToken : RecorderMode::kPerPass;
  if (topk && topk->as_tensor() && topk->as_tensor()->shape.size() == 3) {
    about.top_k = static_cast<int>(std::min<int64_t>(topk->as_tensor()->shape[2], INT32_MAX));
  }
  if (first) about.rank = static_cast<int>(first->find_int("rank").value_or(0));
  // Records that share one storage could claim more than the file holds.
  int64_t total = 0;
  for (size_t i = 0; i < list.list_size(); ++i) {
    const std::string place = "record " + std::to_string(i);
    total += num_elements(list.item(i), "global_physical_count") +
             num_elements(list.item(i), "topk_ids_of_layer");
    if (total > static_cast<int64_t>(file.file_size)) {
      return corrupt_file(place + " claims more than the file holds");
    }
    records.pass_ids.push_back(list.item(i).find_int("forward_pass_id").value_or(-1));
    if (records.pass_ids.back() < 0) return corrupt_file(place + ": lacks a forward_pass_id");
  }
  Result<std::optional<RecordingInfo>> info = read_info(file);
  if (!info.ok()) return info.error();
  about.info = std::move(*info);
  return records;
}

Result<RecordedPass> read_record(const PtFile& file,
                                 const Records& records,
                                 size_t idx,
                                 bool with_tokens) {
  const std::string place = "record " + std::to_string(idx) + ":";
  const PtValue record = file.root().find("records").value_or(file.root()).item(idx);
  RecordedPass pass;
  pass.num_tokens = -1;
  pass.forward_pass_id = records.pass_ids[idx];
  const Result<NumberArray> counts = numbers_at(file, record, "global_physical_count");
  if (!counts.ok()) return at(place, counts.error());
  if (Status s = add_physical_counts(*counts, records, pass); !s.ok()) return at(place, s.error());
  if (!with_tokens || records.about.mode != RecorderMode::kPerToken) return pass;

  const Result<NumberArray> topk = numbers_at(file, record, "topk_ids_of_layer");
  if (!topk.ok()) return at(place, topk.error());
  if (Status s = add_topk_ids(*topk, records, pass); !s.ok()) return at(place, s.error());
  pass.forward_mode = static_cast<ForwardMode>(record.find_int("forward_mode").value_or(0));
  const std::pair<const char*, std::vector<int32_t>*> lists[] = {
      {"input_ids", &pass.input_ids},
      {"positions", &pass.positions},
      {"extend_seq_lens", &pass.extend_seq_lens}};
  for (const auto& [key, target] : lists) {
    auto values = int_list(file, record, key);
    if (!values.ok()) return at(place, values.error());
    *target = std::move(*values);
  }
  return pass;
}

Result<std::optional<RecordingInfo>> read_info(const PtFile& file) {
  const auto dict = file.root().find("plimsoll");
  if (!dict) return std::optional<RecordingInfo>();
  RecordingInfo info;
  info.version = dict->find_string("version");
  info.model_type = dict->find_string("model_type");
  info.top_k = static_cast<int>(dict->find_int("top_k").value_or(0));
  info.eplb_algorithm = dict->find_string("eplb_algorithm");
  info.num_tokens = dict->find_int("num_tokens").value_or(0);
  info.start_time = dict->find_float("start_time").value_or(0);
  info.end_time = dict->find_float("end_time").value_or(0);
  const Result<NumberArray> numbers = numbers_at(file, *dict, "physical_to_logical_map");
  if (!numbers.ok()) return at("plimsoll:", numbers.error());
  const Result<ExpertMap> map = map_of(*numbers);
  if (!map.ok()) return at("plimsoll: physical_to_logical_map", map.error());
  Result<Placement> placement = make_placement(
      *map, map->num_layers, static_cast<int>(dict->find_int("num_experts").value_or(0)),
      static_cast<int>(dict->find_int("ep_size").value_or(0)));
  if (!placement.ok()) return at("plimsoll:", placement.error());
  info.placement = std::move(*placement);
  return std::optional(std::move(info));
}

}  // namespace plimsoll
