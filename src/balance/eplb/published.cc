// The published algorithms as rows of balance/plan/algorithms.h: from a recorded load to a
// placement.
#include "balance/eplb/eplb_check.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

bool is_hierarchical(const PlanOptions& options) {
  return options.algorithm.ends_with("_hierarchical");
}

std::vector<float> total_weight(const LoadHistory& load) {
  const std::vector<int64_t> total = total_load(load);
  return {total.begin(), total.end()};
}

Result<Placement> placement_of(const EplbSizes& sizes, Result<EplbAnswer> answer) {
  if (!answer.ok()) return answer.error();
  Placement placement = empty_placement(sizes);
  placement.physical_to_logical = std::move(answer->physical_to_logical);
  return placement;
}

}  // namespace

Result<Placement> plan_deepseek(const LoadHistory& load, const PlanOptions& options) {
  const EplbSizes sizes = eplb_sizes(load, options);
  return placement_of(sizes, eplb_deepseek(sizes, total_weight(load), is_hierarchical(options)));
}

Result<Placement> plan_deepseek_vec(const LoadHistory& load, const PlanOptions& options) {
  const EplbSizes sizes = eplb_sizes(load, options);
  return placement_of(sizes, eplb_deepseek_vec(sizes, load.counts, is_hierarchical(options)));
}

Result<Placement> plan_elasticity_aware(const LoadHistory& load, const PlanOptions& options) {
  const EplbSizes sizes = eplb_sizes(load, options);
  const std::vector<uint8_t> all_alive(options.num_ranks, 1);
  const auto& alive = options.active_ranks.empty() ? all_alive : options.active_ranks;
  return placement_of(
      sizes, eplb_elasticity_aware(sizes, total_weight(load), alive, is_hierarchical(options)));
}

}  // namespace plimsoll
