// Between numpy arrays and the library's vectors, and from errors to exceptions.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/result.h"

namespace plimsoll::python {

namespace py = pybind11;

// The Python side has already made arrays contiguous and of the right type.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// OSError where the operating system refused, else ValueError.
[[noreturn]] void raise(const Error& error);

template <typename T>
T take(Result<T> result) {
  if (!result.ok()) raise(result.error());
  return std::move(*result);
}
inline void check(const Status& status) {
  if (!status.ok()) raise(status.error());
}

template <typename T>
std::span<const T> span_of(const Array<T>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

template <typename T>
std::vector<T> vector_of(const Array<T>& array) {
  return {array.data(), array.data() + array.size()};
}

template <typename T, typename From>
Array<T> array_of(const std::vector<From>& values, std::initializer_list<py::ssize_t> shape) {
  Array<T> array(shape);
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

// A size of an array that has as many dimensions; fails on any other number of them, and on sizes
// that no int holds.
int dim(const py::array& array, int num_dims, int dim_idx, const char* what);

// [layers, slots]
Placement placement_of(const Array<int32_t>& physical_to_logical,
                       int num_logical_experts,
                       int num_ranks);

void bind_eplb(py::module_& module);
void bind_plans(py::module_& module);
void bind_routing(py::module_& module);
void bind_files(py::module_& module);

}  // namespace plimsoll::python
