#include <memory>

#include "convert.h"
#include "plimsoll/route.h"

namespace plimsoll::python {
namespace {

// The quotas of one batch, out of the workspace's reach.
struct Routing {
  RoutePlan plan;
};

class Router {
 public:
  Router(const Array<int32_t>& physical_to_logical,
         int num_logical_experts,
         int num_ranks,
         const RouteOptions& options)
      : tables_(take(make_route_tables(
            placement_of(physical_to_logical, num_logical_experts, num_ranks), 0, options))),
        workspace_(tables_) {}

  Routing route(const Array<int32_t>& counts, const Array<int32_t>& active_tokens) {
    Routing routing{RoutePlan(tables_)};
    if (dim(counts, 2, 0, "counts") != tables_.num_ranks ||
        dim(counts, 2, 1, "counts") != tables_.num_experts) {
      throw py::value_error("counts must be [" + std::to_string(tables_.num_ranks) + ", " +
                            std::to_string(tables_.num_experts) + "]");
    }
    check(plimsoll::route(tables_, span_of(counts), span_of(active_tokens), workspace_,
                          routing.plan));
    return routing;
  }

  py::tuple assign(const Routing& routing, int source, const Array<int32_t>& topk_ids) {
    const int num_tokens = dim(topk_ids, 2, 0, "topk_ids");
    const int top_k = dim(topk_ids, 2, 1, "topk_ids");
    check_same_placement(routing);
    Array<int32_t> physical({num_tokens, top_k});
    Array<int32_t> shared({num_tokens, tables_.options.num_shared_experts});
    check(plimsoll::assign(tables_, routing.plan, source, span_of(topk_ids), top_k, workspace_,
                           {physical.mutable_data(), static_cast<size_t>(physical.size())},
                           {shared.mutable_data(), static_cast<size_t>(shared.size())}));
    return py::make_tuple(physical, shared);
  }

  void enter_shared_ranks(Routing& routing, int source, const Array<int32_t>& shared_ranks) {
    check_same_placement(routing);
    check(plimsoll::enter_shared_ranks(tables_, source, span_of(shared_ranks), routing.plan));
  }

 private:
  void check_same_placement(const Routing& routing) const {
    if (routing.plan.num_ranks != tables_.num_ranks || routing.plan.num_slots != tables_.num_slots)
      throw py::value_error("the routing is of another placement");
  }

  RouteTables tables_;
  RouteWorkspace workspace_;
};

template <typename Value>
Value parse(const std::string& text, const std::vector<std::pair<std::string, Value>>& values) {
  std::string names;
  for (const auto& [name, value] : values) {
    if (text == name) return value;
    names += " " + name;
  }
  throw py::value_error(text + " is none of:" + names);
}

RouteOptions make_options(const std::string& algorithm,
                          bool waterfill,
                          const std::string& waterfill_rule,
                          int num_shared_experts,
                          std::pair<int, int> shared_cost,
                          uint64_t seed,
                          const std::string& objective,
                          int ns_per_expert,
                          int ns_per_token,
                          const std::vector<int32_t>& rank_cost) {
  RouteOptions options;
  options.algorithm =
      parse<DispatchAlgorithm>(algorithm, {{"exact", DispatchAlgorithm::kExact},
                                           {"static", DispatchAlgorithm::kStatic},
                                           {"dynamic", DispatchAlgorithm::kDynamic}});
  options.objective = parse<RouteObjective>(objective, {{"tokens", RouteObjective::kTokens},
                                                        {"experts", RouteObjective::kExperts},
                                                        {"time", RouteObjective::kTime}});
  options.waterfill = waterfill;
  options.waterfill_rule =
      parse<WaterfillRule>(waterfill_rule, {{"level", WaterfillRule::kLevel},
                                            {"sglang", WaterfillRule::kSglang},
                                            {"sglang_global", WaterfillRule::kSglangGlobal}});
  options.num_shared_experts = num_shared_experts;
  options.shared_cost = {shared_cost.first, shared_cost.second};
  options.seed = seed;
  options.ns_per_expert = ns_per_expert;
  options.ns_per_token = ns_per_token;
  options.rank_cost = rank_cost;
  return options;
}

}  // namespace

void bind_routing(py::module_& module) {
  py::class_<RouteOptions>(module, "RouteOptions").def(py::init(&make_options));

  py::class_<Routing>(module, "Routing", "Quotas of one batch, and their proof.")
      .def_property_readonly(
          "routed",
          [](const Routing& r) {
            return array_of<int32_t>(r.plan.routed, {r.plan.num_ranks, r.plan.num_slots});
          },
          "[source rank, slot]: tokens of a source served by a slot")
      .def_property_readonly(
          "shared",
          [](const Routing& r) {
            return array_of<int32_t>(r.plan.shared, {r.plan.num_ranks, r.plan.num_ranks});
          },
          "[source rank, rank]: shared-expert tokens of a source")
      .def_property_readonly(
          "rank_load",
          [](const Routing& r) { return array_of<int64_t>(r.plan.rank_load, {r.plan.num_ranks}); },
          "[rank], in cost units: tokens, at the usual cost of 1")
      .def_property_readonly("max_load", [](const Routing& r) { return r.plan.max_load; })
      .def_property_readonly(
          "lower_bound", [](const Routing& r) { return r.plan.lower_bound; },
          "no routing of these counts has a smaller max_load")
      .def_property_readonly(
          "num_messages", [](const Routing& r) { return r.plan.num_messages; },
          "(token, expert) pairs sent to another rank")
      .def("__repr__", [](const Routing& r) { return "<Routing " + to_string(r.plan) + ">"; });

  py::class_<Router>(module, "Router")
      .def(py::init<const Array<int32_t>&, int, int, const RouteOptions&>())
      .def("route", &Router::route)
      .def("assign", &Router::assign)
      .def("enter_shared_ranks", &Router::enter_shared_ranks);
}

}  // namespace plimsoll::python
