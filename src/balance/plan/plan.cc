#include "plimsoll/plan.h"

#include <algorithm>

#include "balance/eplb/eplb_check.h"
#include "balance/plan/algorithms.h"
#include "balance/plan/align.h"
#include "balance/plan/plan_check.h"

namespace plimsoll {
namespace {

Status check_load(const LoadHistory& load) {
  const int64_t per_step = int64_t{load.num_layers} * load.num_logical_experts;
  const int64_t found = std::ssize(load.counts);
  if (load.num_steps < 1 || load.num_layers < 1 || load.num_logical_experts < 1 ||
      found % per_step != 0 || found / per_step != load.num_steps) {
    return invalid_argument("a load of " + std::to_string(load.num_steps) + " steps, " +
                            std::to_string(load.num_layers) + " layers and " +
                            std::to_string(load.num_logical_experts) + " experts holds " +
                            std::to_string(found) +
                            " counts; expected their product, and at least one");
  }
  if (std::any_of(load.counts.begin(), load.counts.end(), [](int64_t n) { return n < 0; })) {
    return invalid_argument("the load holds a negative count");
  }
  if (std::all_of(load.counts.begin(), load.counts.end(), [](int64_t n) { return n == 0; })) {
    return invalid_argument(
        "the load is all zero: no expert selection was recorded; start recording, send requests, "
        "then "
        "dump, and plan from that file");
  }
  return ok_status();
}

Status check_same_sizes(const Placement& a, const Placement& b) {
  if (a.num_layers == b.num_layers && a.num_physical_experts == b.num_physical_experts &&
      a.num_ranks == b.num_ranks && a.num_logical_experts == b.num_logical_experts) {
    return ok_status();
  }
  const auto sizes = [](const Placement& p) {
    return std::to_string(p.num_layers) + " layers, " + std::to_string(p.num_logical_experts) +
           " experts, " + std::to_string(p.num_physical_experts) + " slots and " +
           std::to_string(p.num_ranks) + " ranks";
  };
  return invalid_argument("the placement in force has " + sizes(a) + "; the new one has " +
                          sizes(b) +
                          "; experts can be moved between placements of the same sizes only");
}

Status check_options(const Algorithm& algorithm,
                     const LoadHistory& load,
                     const PlanOptions& options) {
  const EplbSizes sizes = eplb_sizes(load, options);
  const bool hierarchical = algorithm.name.ends_with("_hierarchical");
  if (Status status = check_eplb_sizes(sizes, hierarchical); !status.ok()) return status;
  if (!algorithm.avoids_dead_ranks &&
      std::count(options.active_ranks.begin(), options.active_ranks.end(), 0) > 0) {
    return invalid_argument("algorithm '" + std::string(algorithm.name) +
                            "' places experts on every rank; with dead ranks use elasticity_aware");
  }
  if (options.in_force.num_layers == 0 && options.max_moved_experts >= 0) {
    return invalid_argument("a limit on moved experts needs the placement in force");
  }
  if (options.max_moved_experts >= 0 && !algorithm.limits_moves) {
    return invalid_argument("algorithm '" + std::string(algorithm.name) +
                            "' cannot limit how many experts move; use plimsoll");
  }
  if (options.max_moved_experts >= 0 && options.dispatch != Dispatch::kExact) {
    return invalid_argument(
        "a limit on moved experts is planned for exact routing only; leave it out, or the dispatch "
        "'" +
        std::string(dispatch_name(options.dispatch)) + "'");
  }
  if (options.in_force.num_layers == 0) return ok_status();
  if (Status status = validate(options.in_force); !status.ok()) return status;
  return check_same_sizes(options.in_force, empty_placement(sizes));
}

}  // namespace

std::vector<int64_t> total_load(const LoadHistory& load) {
  std::vector<int64_t> total(static_cast<size_t>(load.num_layers) * load.num_logical_experts, 0);
  for (size_t i = 0; i < load.counts.size(); ++i) total[i % total.size()] += load.counts[i];
  return total;
}

Status check_plan(const LoadHistory& load, const PlanOptions& options) {
  if (find_algorithm(options.algorithm) == nullptr) {
    std::string names;
    for (const std::string_view name : eplb_algorithms()) {
      names += names.empty() ? "" : ", ";
      names += name;
    }
    return invalid_argument("unknown algorithm '" + options.algorithm + "'; use one of " + names);
  }
  if (Status status = check_load(load); !status.ok()) return status;
  return check_options(*find_algorithm(resolve_algorithm(options)), load, options);
}

Result<Plan> make_plan(const LoadHistory& load, const PlanOptions& options) {
  if (Status status = check_plan(load, options); !status.ok()) return status.error();
  Plan plan;
  plan.algorithm = resolve_algorithm(options);
  Result<Placement> placement = find_algorithm(options.algorithm)->plan(load, options);
  if (!placement.ok()) return placement.error();
  plan.placement = std::move(*placement);
  auto certificates = certify(plan.placement, total_load(load), options.active_ranks,
                              options.dispatch, options.num_nodes);
  if (!certificates.ok()) return certificates.error();
  plan.certificates = std::move(*certificates);
  if (options.in_force.num_layers > 0) {
    auto moved = moved_experts(options.in_force, plan.placement);
    if (!moved.ok()) return moved.error();
    plan.moved_experts = std::move(*moved);
  }
  return plan;
}

Result<std::vector<int32_t>> moved_experts(const Placement& from, const Placement& to) {
  if (Status status = validate(from); !status.ok()) return status.error();
  if (Status status = validate(to); !status.ok()) return status.error();
  if (Status status = check_same_sizes(from, to); !status.ok()) return status.error();
  std::vector<int32_t> moved;
  for (int l = 0; l < to.num_layers; ++l) {
    const auto experts = to.layer(l);
    const LayerPlan plan{to.num_ranks, to.slots_per_rank(), {experts.begin(), experts.end()}};
    moved.push_back(count_moved(plan, from.layer(l)));
  }
  return moved;
}

}  // namespace plimsoll
