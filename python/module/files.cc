#include <algorithm>
#include <numeric>

#include "convert.h"
#include "plimsoll/expert_location.h"
#include "plimsoll/recording.h"
#include "plimsoll/trace.h"

namespace plimsoll::python {
namespace {

Array<int64_t> read_load(const std::vector<std::string>& paths, bool allow_missing_ranks) {
  const LoadedCounts loaded =
      take(load_expert_counts(paths, {.allow_missing_ranks = allow_missing_ranks}));
  const LoadHistory& history = loaded.history;
  return array_of<int64_t>(history.counts,
                           {history.num_steps, history.num_layers, history.num_logical_experts});
}

Array<int32_t> read_placement(const std::string& path) {
  const ExpertMap map = take(load_expert_map(path));
  return array_of<int32_t>(map.physical_to_logical, {map.num_layers, map.num_physical_experts});
}

std::vector<int32_t> read_layer_ids(const std::string& path) {
  ExpertMap map = take(load_expert_map(path));
  if (map.layer_ids.empty()) {
    map.layer_ids.resize(map.num_layers);
    std::iota(map.layer_ids.begin(), map.layer_ids.end(), 0);
  }
  return map.layer_ids;
}

void write_placement(const std::string& path,
                     const Array<int32_t>& physical_to_logical,
                     std::vector<int32_t> layer_ids,
                     const std::string& format,
                     int num_ranks) {
  const auto ids = span_of(physical_to_logical);
  const int num_experts = ids.empty() ? 0 : std::ranges::max(ids) + 1;
  const Placement placement = placement_of(physical_to_logical, num_experts, num_ranks);
  check(validate(placement));
  check(save_placement(placement, path,
                       {.format = format, .layer_ids = std::move(layer_ids), .moe_rows = {}}));
}

Array<int16_t> read_trace(const std::vector<std::string>& paths) {
  const ExpertTrace trace = take(load_trace(paths));
  return array_of<int16_t>(trace.ids, {trace.num_tokens(), trace.num_layers, trace.top_k});
}

void write_trace(const std::string& path,
                 const Array<int16_t>& ids,
                 int num_logical_experts,
                 const std::string& model) {
  ExpertTrace trace{model, dim(ids, 3, 1, "ids"), num_logical_experts, dim(ids, 3, 2, "ids"),
                    vector_of(ids)};
  check(save_trace(trace, path));
}

constexpr const char* kModes[] = {"stat", "per_pass", "per_token"};

Array<int32_t> pass_counts(const Recording& recording) {
  std::vector<int32_t> counts;
  for (const RecordedPass& pass : recording.passes)
    counts.insert(counts.end(), pass.counts.begin(), pass.counts.end());
  return array_of<int32_t>(
      counts, {std::ssize(recording.passes), recording.num_layers, recording.num_logical_experts});
}

py::list pass_topk_ids(const Recording& recording) {
  py::list arrays;
  if (recording.mode != RecorderMode::kPerToken) return arrays;
  for (const RecordedPass& pass : recording.passes) {
    arrays.append(
        array_of<int32_t>(pass.topk_ids, {recording.num_layers, pass.num_tokens, recording.top_k}));
  }
  return arrays;
}

py::list arrays_of(const Recording& recording, std::vector<int32_t> RecordedPass::*field) {
  py::list arrays;
  for (const RecordedPass& pass : recording.passes)
    arrays.append(array_of<int32_t>(pass.*field, {std::ssize(pass.*field)}));
  return arrays;
}

Array<int64_t> pass_ids(const Recording& recording) {
  std::vector<int64_t> ids;
  for (const RecordedPass& pass : recording.passes) ids.push_back(pass.forward_pass_id);
  return array_of<int64_t>(ids, {std::ssize(ids)});
}

// [passes, layers, experts], as a recording of all ranks together.
void write_counts(const std::string& path, const Array<int64_t>& counts) {
  const LoadHistory history{dim(counts, 3, 0, "counts"), dim(counts, 3, 1, "counts"),
                            dim(counts, 3, 2, "counts"), vector_of(counts)};
  check(write_recording(take(make_recording(history)), path));
}

py::object info_of(const Recording& recording) {
  if (!recording.info) return py::none();
  const RecordingInfo& info = *recording.info;
  const Placement& placement = info.placement;
  py::dict dict;
  dict["version"] = info.version;
  dict["model_type"] = info.model_type;
  dict["top_k"] = info.top_k;
  dict["ep_size"] = placement.num_ranks;
  dict["eplb_algorithm"] = info.eplb_algorithm;
  dict["physical_to_logical_map"] = array_of<int32_t>(
      placement.physical_to_logical, {placement.num_layers, placement.num_physical_experts});
  dict["num_tokens"] = info.num_tokens;
  dict["start_time"] = info.start_time;
  dict["end_time"] = info.end_time;
  return dict;
}

}  // namespace

void bind_files(py::module_& module) {
  py::class_<Recording>(module, "Recording", "The content of one recorder file.")
      .def_property_readonly(
          "mode", [](const Recording& r) { return kModes[static_cast<int>(r.mode)]; },
          "stat, per_pass or per_token")
      .def_readonly("rank", &Recording::rank, "of a per_pass or per_token file")
      .def_readonly("num_logical_experts", &Recording::num_logical_experts)
      .def_property_readonly("counts", &pass_counts, "int32 [passes, layers, logical experts]")
      .def_property_readonly("forward_pass_ids", &pass_ids, "int64 [passes]")
      .def_property_readonly(
          "topk_ids", &pass_topk_ids,
          "per_token: of every pass, int32 [layers, tokens, k], logical; -1: none")
      .def_property_readonly(
          "input_ids", [](const Recording& r) { return arrays_of(r, &RecordedPass::input_ids); },
          "per_token: of every pass, int32 [tokens]")
      .def_property_readonly(
          "positions", [](const Recording& r) { return arrays_of(r, &RecordedPass::positions); },
          "per_token: of every pass, int32 [tokens]")
      .def_readonly("average_utilization_rate", &Recording::average_utilization_rate)
      .def_property_readonly("info", &info_of, "what Plimsoll adds to a file, a dict; else None");

  module.def("read_load", &read_load);
  module.def("read_recording", [](const std::string& path) { return take(read_recording(path)); });
  module.def("write_recording", [](const std::string& path, const Recording& recording) {
    check(write_recording(recording, path));
  });
  module.def("write_counts", &write_counts);
  module.def("read_placement", &read_placement);
  module.def("read_layer_ids", &read_layer_ids);
  module.def("write_placement", &write_placement);
  module.def("read_trace", &read_trace);
  module.def("write_trace", &write_trace);
}

}  // namespace plimsoll::python
