#include "commands/target_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace plimsoll {
namespace {

struct TargetEngine {
  std::string_view name;
  std::vector<Dispatch> dispatches;  // those it has, its own choice first
  std::vector<std::string_view> file_ends;
  std::string_view reads;  // such files, in words
};

const TargetEngine* find_target(std::string_view name) {
  static const TargetEngine kTargets[] = {
      {"plimsoll", {Dispatch::kExact}, {".json", ".pt", ".yaml", ".yml", ".npy"}, "any placement"},
      {"sglang",
       {Dispatch::kStatic, Dispatch::kDynamic, Dispatch::kEven},
       {".json", ".pt"},
       ".json and .pt"},
      {"vllm", {Dispatch::kEven}, {".json", ".npy"}, "no placement itself; its plug-in .json"},
      {"tensorrt-llm", {Dispatch::kEven}, {".yaml", ".yml"}, ".yaml"},
  };
  const auto found = std::ranges::find(kTargets, name, &TargetEngine::name);
  return found == std::end(kTargets) ? nullptr : found;
}

}  // namespace

Result<Dispatch> planned_dispatch(const Settings& settings) {
  const Dispatch asked = *dispatch_of(settings.engine.ep_dispatch_algorithm);  // the table checks
  if (settings.plan.target.empty()) return asked;
  const TargetEngine& target = *find_target(settings.plan.target);
  if (asked == Dispatch::kExact) return target.dispatches.front();  // as good as not given
  if (std::ranges::count(target.dispatches, asked) > 0) return asked;
  return invalid_argument(
      fmt::format("--for {} plans for {} dispatch; leave out --ep-dispatch-algorithm {}, or --for",
                  target.name, dispatch_name(target.dispatches.front()), dispatch_name(asked)));
}

Status check_readable(const Settings& settings, std::string_view placement_file) {
  if (settings.plan.target.empty()) return ok_status();
  const TargetEngine& target = *find_target(settings.plan.target);
  const auto ends = [&](std::string_view end) { return placement_file.ends_with(end); };
  if (std::ranges::any_of(target.file_ends, ends)) return ok_status();
  return invalid_argument(fmt::format("--out {}: {} reads {}; end it in {}", placement_file,
                                      target.name, target.reads, target.file_ends.front()));
}

std::string dispatch_text(Dispatch dispatch, const Settings& settings) {
  const auto nodes = [&] {
    return settings.engine.nnodes == 1 ? std::string("on one node")
                                       : fmt::format("on {} nodes", settings.engine.nnodes);
  };
  std::string text;
  switch (dispatch) {
    case Dispatch::kExact:
      text = "counts on exact routing, as Plimsoll does";
      break;
    case Dispatch::kEven:
      text = "counts on even splitting of an expert's tokens over its copies";
      break;
    case Dispatch::kDynamic:
      text = "counts on SGLang's dynamic dispatch of a placement " + nodes();
      break;
    case Dispatch::kStatic:
      text = "counts on SGLang's static dispatch " + nodes();
      break;
  }
  if (settings.plan.target.empty() && dispatch == Dispatch::kExact) {
    text += "; for another engine give --for sglang, vllm or tensorrt-llm";
  }
  if (settings.plan.target == "tensorrt-llm") {
    text +=
        "; TensorRT-LLM ignores it in silence unless the model's architecture is on its list, EP "
        "is "
        "above 1 and attention DP is on";
  }
  return text;
}

}  // namespace plimsoll
