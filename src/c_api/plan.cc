#include <algorithm>
#include <memory>
#include <numeric>

#include "c_api/guard.h"
#include "c_api/handles.h"

using namespace plimsoll;
using namespace plimsoll::c_api;

namespace {

static_assert(static_cast<int>(Bound::kMean) == PLIMSOLL_BOUND_MEAN &&
              static_cast<int>(Bound::kReplicaBudget) == PLIMSOLL_BOUND_REPLICA_BUDGET &&
              static_cast<int>(Bound::kSlotCardinality) == PLIMSOLL_BOUND_SLOT_CARDINALITY &&
              static_cast<int>(Bound::kSlotBudget) == PLIMSOLL_BOUND_SLOT_BUDGET);

plimsoll_certificate c_certificate(const Certificate& c) {
  return {c.max_load,
          c.max_load_even,
          c.mean_load,
          c.lower_bound,
          static_cast<plimsoll_bound>(c.binding),
          c.hottest_expert,
          c.hottest_copies};
}

Result<PlanOptions> cpp_options(const plimsoll_plan_options& c) {
  PlanOptions options;
  if (c.algorithm) options.algorithm = c.algorithm;
  options.num_ranks = c.num_ranks;
  options.num_redundant_experts = c.num_redundant_experts;
  options.num_nodes = c.num_nodes;
  options.num_groups = c.num_groups;
  if (c.active_ranks && c.num_ranks > 0) {
    options.active_ranks.assign(c.active_ranks, c.active_ranks + c.num_ranks);
  }
  if (c.in_force) options.in_force = c.in_force->placement;
  options.max_moved_experts = c.max_moved_experts;
  if (c.dispatch) {
    const auto dispatch = dispatch_of(c.dispatch);
    if (!dispatch) {
      return invalid_argument("dispatch is '" + std::string(c.dispatch) +
                              "'; it must be exact, even, dynamic or static");
    }
    options.dispatch = *dispatch;
  }
  return options;
}

}  // namespace

void plimsoll_plan_options_init(plimsoll_plan_options* options) {
  *options = plimsoll_plan_options{};
  options->num_ranks = 1;
  options->num_nodes = 1;
  options->max_moved_experts = -1;
}

const char* plimsoll_algorithm(size_t idx) {
  // The names are string literals: each ends in a zero.
  return idx < eplb_algorithms().size() ? eplb_algorithms()[idx].data() : nullptr;
}

plimsoll_code plimsoll_plan_make(const plimsoll_load* load,
                                 const plimsoll_plan_options* options,
                                 plimsoll_plan** plan) {
  return guarded([&]() -> Status {
    const Status there = check_there({{"load", load}, {"options", options}, {"plan", plan}});
    if (!there.ok()) return there;
    const Result<PlanOptions> cpp = cpp_options(*options);
    if (!cpp.ok()) return cpp.error();
    Result<Plan> made = make_plan(load->history, *cpp);
    if (!made.ok()) return made.error();
    auto handle = std::make_unique<plimsoll_plan>();
    handle->placement.placement = std::move(made->placement);
    for (const Certificate& certificate : made->certificates) {
      handle->certificates.push_back(c_certificate(certificate));
      handle->explanations.push_back(explain(certificate));
    }
    handle->moved_experts =
        std::accumulate(made->moved_experts.begin(), made->moved_experts.end(), int64_t{0});
    *plan = handle.release();
    return ok_status();
  });
}

const plimsoll_placement* plimsoll_plan_placement(const plimsoll_plan* plan) {
  return &plan->placement;
}
const plimsoll_certificate* plimsoll_plan_certificates(const plimsoll_plan* plan) {
  return plan->certificates.data();
}
const char* plimsoll_plan_explain(const plimsoll_plan* plan, int32_t layer) {
  const bool is_there = layer >= 0 && layer < std::ssize(plan->explanations);
  return is_there ? plan->explanations[layer].c_str() : nullptr;
}
int64_t plimsoll_plan_moved_experts(const plimsoll_plan* plan) {
  return plan->moved_experts;
}
void plimsoll_plan_free(plimsoll_plan* plan) {
  delete plan;
}

plimsoll_code plimsoll_certify(const plimsoll_placement* placement,
                               const plimsoll_load* load,
                               plimsoll_certificate* certificates) {
  return guarded([&]() -> Status {
    const Status there =
        check_there({{"placement", placement}, {"load", load}, {"certificates", certificates}});
    if (!there.ok()) return there;
    const auto made = certify(placement->placement, total_load(load->history));
    if (!made.ok()) return made.error();
    std::transform(made->begin(), made->end(), certificates, c_certificate);
    return ok_status();
  });
}
