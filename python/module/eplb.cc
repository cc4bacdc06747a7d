// The published algorithms, for eplb.py and eplb_algorithms.py: arrays in, the three arrays of an
// EplbAnswer out. They check the sizes of what they are given themselves.
#include "plimsoll/eplb.h"

#include "convert.h"

namespace plimsoll::python {
namespace {

py::tuple arrays_of(const EplbSizes& sizes, const EplbAnswer& answer) {
  return py::make_tuple(
      array_of<int64_t>(answer.physical_to_logical, {sizes.num_layers, sizes.num_physical_experts}),
      array_of<int64_t>(answer.replica_index, {sizes.num_layers, sizes.num_physical_experts}),
      array_of<int64_t>(answer.logical_count, {sizes.num_layers, sizes.num_logical_experts}));
}

}  // namespace

void bind_eplb(py::module_& module) {
  // Of loads that end in [layers, experts].
  py::class_<EplbSizes>(module, "EplbSizes")
      .def(py::init([](const py::array& load, int num_dims, int num_slots, int num_groups,
                       int num_nodes, int num_ranks) {
        EplbSizes sizes{dim(load, num_dims, num_dims - 2, "the load"),
                        dim(load, num_dims, num_dims - 1, "the load"), num_slots, num_ranks};
        sizes.num_nodes = num_nodes;
        sizes.num_groups = num_groups;
        return sizes;
      }));
  module.def("eplb_deepseek",
             [](const EplbSizes& sizes, const Array<float>& load, bool hierarchical) {
               return arrays_of(sizes, take(eplb_deepseek(sizes, span_of(load), hierarchical)));
             });
  module.def(
      "eplb_elasticity_aware", [](const EplbSizes& sizes, const Array<float>& load,
                                  bool hierarchical, const std::vector<uint8_t>& active_ranks) {
        return arrays_of(
            sizes, take(eplb_elasticity_aware(sizes, span_of(load), active_ranks, hierarchical)));
      });
  module.def("eplb_deepseek_vec", [](const EplbSizes& sizes, const Array<int64_t>& steps,
                                     bool hierarchical) {
    return arrays_of(sizes, take(eplb_deepseek_vec(sizes, span_of(steps), hierarchical)));
  });
}

}  // namespace plimsoll::python
