#include "balance/plan/algorithms.h"

#include <algorithm>
#include <array>

namespace plimsoll {

#define DECLARE(function, ...) Result<Placement> function(const LoadHistory&, const PlanOptions&);
PLIMSOLL_EPLB_ALGORITHMS(DECLARE)
#undef DECLARE

namespace {

constexpr Algorithm kAlgorithms[] = {
#define ROW(function, text, ...) {.name = text, .plan = function __VA_OPT__(, ) __VA_ARGS__},
    PLIMSOLL_EPLB_ALGORITHMS(ROW)
#undef ROW
};

constexpr auto kNames = [] {
  std::array<std::string_view, std::size(kAlgorithms)> names;
  std::ranges::transform(kAlgorithms, names.begin(), &Algorithm::name);
  return names;
}();

}  // namespace

std::span<const std::string_view> eplb_algorithms() {
  return kNames;
}

const Algorithm* find_algorithm(std::string_view name) {
  const auto found = std::ranges::find(kAlgorithms, name, &Algorithm::name);
  return found == std::end(kAlgorithms) ? nullptr : found;
}

std::string resolve_algorithm(const PlanOptions& options) {
  if (options.algorithm != "auto") return options.algorithm;
  if (std::ranges::count(options.active_ranks, 0) > 0) return "elasticity_aware";
  const bool divides = options.num_groups > 0 && options.num_nodes > 0 &&
                       options.num_groups % options.num_nodes == 0;
  return divides ? "deepseek_hierarchical" : "deepseek";
}

Result<Placement> plan_auto(const LoadHistory& load, const PlanOptions& options) {
  PlanOptions chosen = options;
  chosen.algorithm = resolve_algorithm(options);
  return find_algorithm(chosen.algorithm)->plan(load, chosen);
}

}  // namespace plimsoll
