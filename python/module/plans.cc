#include "convert.h"
#include "plimsoll/plan.h"

namespace plimsoll::python {
namespace {

Plan plan(const Array<int64_t>& load, PlanOptions options, const Array<int32_t>& in_force) {
  LoadHistory history{dim(load, 3, 0, "load"), dim(load, 3, 1, "load"), dim(load, 3, 2, "load"),
                      vector_of(load)};
  if (in_force.size() > 0) {
    options.in_force = placement_of(in_force, history.num_logical_experts, options.num_ranks);
    check(validate(options.in_force));
  }
  return take([&] {
    const py::gil_scoped_release others_may_run;
    return make_plan(history, options);
  }());
}

Dispatch dispatch_named(const std::string& name) {
  const auto dispatch = dispatch_of(name);
  if (!dispatch) {
    throw py::value_error("dispatch is '" + name + "'; it must be exact, even, dynamic or static");
  }
  return *dispatch;
}

const char* bound_name(Bound bound) {
  switch (bound) {
    case Bound::kReplicaBudget:
      return "replica budget";
    case Bound::kSlotCardinality:
      return "slot cardinality";
    case Bound::kSlotBudget:
      return "slot budget";
    default:
      return "mean";
  }
}

std::string describe(const Certificate& c) {
  return "<Certificate max " + std::to_string(c.max_load) + ", bound " +
         std::to_string(c.lower_bound) + " (" + bound_name(c.binding) + ")>";
}

}  // namespace

void bind_plans(py::module_& module) {
  py::class_<Certificate>(module, "Certificate",
                          "How good a placement is for one layer, in tokens.")
      .def_readonly("max_load", &Certificate::max_load, "of the fullest rank under the dispatch")
      .def_readonly("max_load_even", &Certificate::max_load_even,
                    "the same, every expert split evenly over its copies")
      .def_readonly("mean_load", &Certificate::mean_load, "per rank")
      .def_readonly("lower_bound", &Certificate::lower_bound,
                    "no placement with as many slots has a smaller max_load")
      .def_property_readonly("gap", &Certificate::gap, "max_load / lower_bound - 1")
      .def_property_readonly("binding", [](const Certificate& c) { return bound_name(c.binding); })
      .def_readonly("hottest_expert", &Certificate::hottest_expert)
      .def_readonly("hottest_copies", &Certificate::hottest_copies)
      .def("explain", &explain, "Why the layer cannot do better, in a sentence.")
      .def("__repr__", &describe);

  py::class_<Plan>(module, "Plan", "A placement, and a certificate for every layer.")
      .def_property_readonly(
          "physical_to_logical",
          [](const Plan& plan) {
            const Placement& p = plan.placement;
            return array_of<int32_t>(p.physical_to_logical, {p.num_layers, p.num_physical_experts});
          })
      .def_readonly("algorithm", &Plan::algorithm)
      .def_readonly("certificates", &Plan::certificates)
      .def_readonly("moved_experts", &Plan::moved_experts,
                    "per layer, slots that must load another expert; empty without in_force");

  py::class_<PlanOptions>(module, "PlanOptions")
      .def(py::init<>())
      .def_readwrite("algorithm", &PlanOptions::algorithm)
      .def_readwrite("num_ranks", &PlanOptions::num_ranks)
      .def_readwrite("num_redundant_experts", &PlanOptions::num_redundant_experts)
      .def_property(
          "dispatch", [](const PlanOptions& o) { return std::string(dispatch_name(o.dispatch)); },
          [](PlanOptions& o, const std::string& name) { o.dispatch = dispatch_named(name); })
      .def_readwrite("num_nodes", &PlanOptions::num_nodes)
      .def_readwrite("num_groups", &PlanOptions::num_groups)
      .def_readwrite("active_ranks", &PlanOptions::active_ranks)
      .def_readwrite("max_moved_experts", &PlanOptions::max_moved_experts);
  module.def("plan", &plan);
  module.def("algorithms", [] {
    const auto names = eplb_algorithms();
    return std::vector<std::string>(names.begin(), names.end());
  });
  module.def("certify", [](const Array<int32_t>& physical_to_logical, int num_ranks,
                           const Array<int64_t>& load, const std::string& dispatch, int num_nodes) {
    const int num_experts = dim(load, 2, 1, "load");
    const Placement placement = placement_of(physical_to_logical, num_experts, num_ranks);
    check(validate(placement));
    return take(certify(placement, span_of(load), {}, dispatch_named(dispatch), num_nodes));
  });
}

}  // namespace plimsoll::python
