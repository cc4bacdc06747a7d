#include <limits>

#include "convert.h"

namespace plimsoll::python {

void raise(const Error& error) {
  if (error.code != ErrorCode::kIo) throw py::value_error(error.message);
  PyErr_SetString(PyExc_OSError, error.message.c_str());
  throw py::error_already_set();
}

int dim(const py::array& array, int num_dims, int dim_idx, const char* what) {
  if (array.ndim() != num_dims) {
    throw py::value_error(std::string(what) + " must have " + std::to_string(num_dims) +
                          " dimensions; found " + std::to_string(array.ndim()));
  }
  if (array.shape(dim_idx) > std::numeric_limits<int>::max()) {
    throw py::value_error(std::string(what) + " is too large");
  }
  return static_cast<int>(array.shape(dim_idx));
}

Placement placement_of(const Array<int32_t>& physical_to_logical,
                       int num_logical_experts,
                       int num_ranks) {
  Placement placement;
  placement.num_layers = dim(physical_to_logical, 2, 0, "physical_to_logical");
  placement.num_physical_experts = dim(physical_to_logical, 2, 1, "physical_to_logical");
  placement.num_logical_experts = num_logical_experts;
  placement.num_ranks = num_ranks;
  placement.physical_to_logical = vector_of(physical_to_logical);
  return placement;
}

PYBIND11_MODULE(_native, module) {
  module.attr("version") = PLIMSOLL_VERSION;
  bind_eplb(module);
  bind_plans(module);
  bind_routing(module);
  bind_files(module);
}

}  // namespace plimsoll::python
