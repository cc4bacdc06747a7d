#include "c_api/guard.h"
#include "c_api/handles.h"

using namespace plimsoll;
using namespace plimsoll::c_api;

namespace {

static_assert(static_cast<int>(DispatchAlgorithm::kExact) == PLIMSOLL_DISPATCH_EXACT &&
              static_cast<int>(DispatchAlgorithm::kStatic) == PLIMSOLL_DISPATCH_STATIC &&
              static_cast<int>(DispatchAlgorithm::kDynamic) == PLIMSOLL_DISPATCH_DYNAMIC);
static_assert(static_cast<int>(RouteObjective::kTokens) == PLIMSOLL_OBJECTIVE_TOKENS &&
              static_cast<int>(RouteObjective::kExperts) == PLIMSOLL_OBJECTIVE_EXPERTS &&
              static_cast<int>(RouteObjective::kTime) == PLIMSOLL_OBJECTIVE_TIME);

static_assert(static_cast<int>(WaterfillRule::kLevel) == 0 &&
              static_cast<int>(WaterfillRule::kSglang) == 1 &&
              static_cast<int>(WaterfillRule::kSglangGlobal) == 2);

plimsoll_routing routing_of(const RoutePlan& plan) {
  return {plan.routed.data(), plan.shared.data(), plan.rank_load.data(),
          plan.max_load,      plan.lower_bound,   plan.num_messages};
}

Result<RouteOptions> cpp_options(const plimsoll_route_options& c, int num_ranks) {
  const auto is_up_to = [](int32_t value, int last) { return value >= 0 && value <= last; };
  if (!is_up_to(c.dispatch, PLIMSOLL_DISPATCH_DYNAMIC) ||
      !is_up_to(c.objective, PLIMSOLL_OBJECTIVE_TIME) ||
      !is_up_to(c.waterfill, PLIMSOLL_WATERFILL_SGLANG_GLOBAL)) {
    return invalid_argument("dispatch, objective and waterfill must be values of their enums");
  }
  RouteOptions options;
  options.algorithm = static_cast<DispatchAlgorithm>(c.dispatch);
  options.objective = static_cast<RouteObjective>(c.objective);
  options.waterfill = c.waterfill != PLIMSOLL_WATERFILL_OFF;
  if (options.waterfill) {
    options.waterfill_rule = static_cast<WaterfillRule>(c.waterfill - PLIMSOLL_WATERFILL_LEVEL);
  }
  options.num_shared_experts = c.num_shared_experts;
  options.shared_cost = {c.shared_cost_num, c.shared_cost_den};
  options.seed = c.seed;
  options.ns_per_expert = c.ns_per_expert;
  options.ns_per_token = c.ns_per_token;
  if (c.rank_cost) options.rank_cost.assign(c.rank_cost, c.rank_cost + num_ranks);
  return options;
}

}  // namespace

void plimsoll_route_options_init(plimsoll_route_options* options) {
  const RouteOptions defaults;
  *options = plimsoll_route_options{};
  options->num_shared_experts = defaults.num_shared_experts;
  options->shared_cost_num = defaults.shared_cost.num;
  options->shared_cost_den = defaults.shared_cost.den;
  options->ns_per_expert = defaults.ns_per_expert;
  options->ns_per_token = defaults.ns_per_token;
}

plimsoll_code plimsoll_router_create(const plimsoll_placement* placement,
                                     int32_t layer,
                                     const plimsoll_route_options* options,
                                     plimsoll_router** router) {
  return guarded([&]() -> Status {
    const Status there =
        check_there({{"placement", placement}, {"options", options}, {"router", router}});
    if (!there.ok()) return there;
    const auto cpp = cpp_options(*options, placement->placement.num_ranks);
    if (!cpp.ok()) return cpp.error();
    auto tables = make_route_tables(placement->placement, layer, *cpp);
    if (!tables.ok()) return tables.error();
    *router = new plimsoll_router(std::move(*tables));
    return ok_status();
  });
}

plimsoll_code plimsoll_router_route(plimsoll_router* router,
                                    const int32_t* counts,
                                    const int32_t* active_tokens,
                                    plimsoll_routing* routing) {
  return guarded([&]() -> Status {
    const Status there = check_there({{"router", router},
                                      {"counts", counts},
                                      {"active_tokens", active_tokens},
                                      {"routing", routing}});
    if (!there.ok()) return there;
    const size_t num_ranks = router->tables.num_ranks;
    const Status routed = route(router->tables, {counts, num_ranks * router->tables.num_experts},
                                {active_tokens, num_ranks}, router->workspace, router->plan);
    if (!routed.ok()) return routed;
    *routing = routing_of(router->plan);
    return ok_status();
  });
}

plimsoll_code plimsoll_router_assign(plimsoll_router* router,
                                     int32_t source,
                                     const int32_t* topk_ids,
                                     int32_t num_tokens,
                                     int32_t top_k,
                                     int32_t* physical_ids,
                                     int32_t* shared_ranks) {
  return guarded([&]() -> Status {
    if (Status there = check_there({{"router", router}}); !there.ok()) return there;
    if (num_tokens < 0 || top_k < 1) {
      return invalid_argument("num_tokens must not be negative, and top_k must be at least 1");
    }
    const size_t num_shared = router->tables.options.num_shared_experts;
    if (num_tokens > 0) {
      const Status there =
          check_there({{"topk_ids", topk_ids},
                       {"physical_ids", physical_ids},
                       {"shared_ranks", num_shared ? shared_ranks : physical_ids}});
      if (!there.ok()) return there;
    }
    const size_t num_choices = static_cast<size_t>(num_tokens) * top_k;
    return assign(router->tables, router->plan, source, {topk_ids, num_choices}, top_k,
                  router->workspace, {physical_ids, num_choices},
                  {shared_ranks, num_tokens * num_shared});
  });
}

plimsoll_code plimsoll_router_enter_shared_ranks(plimsoll_router* router,
                                                 int32_t source,
                                                 const int32_t* shared_ranks,
                                                 int32_t num_tokens,
                                                 plimsoll_routing* routing) {
  return guarded([&]() -> Status {
    Status there = check_there({{"router", router}, {"routing", routing}});
    if (there.ok() && num_tokens > 0) there = check_there({{"shared_ranks", shared_ranks}});
    if (!there.ok()) return there;
    if (num_tokens < 0) return invalid_argument("num_tokens must not be negative");
    const Status entered = enter_shared_ranks(
        router->tables, source, {shared_ranks, static_cast<size_t>(num_tokens)}, router->plan);
    if (!entered.ok()) return entered;
    *routing = routing_of(router->plan);
    return ok_status();
  });
}

void plimsoll_router_free(plimsoll_router* router) {
  delete router;
}
