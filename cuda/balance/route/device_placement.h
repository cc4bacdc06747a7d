// One layer's placement on the device, double-buffered: it can be replaced between two replays of a
// captured graph.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/balance/route/shape.h"
#include "plimsoll/route.h"

namespace plimsoll::gpu {

// "cudaMemcpyAsync failed: ..." as a Status.
Status to_status(cudaError_t error, const char* what);

// Packs the tables as TableLayout says.
std::vector<uint16_t> pack_tables(const RouteTables& tables, const Shape& shape);

class DevicePlacement {
 public:
  // Fails without a GPU of compute capability 9.0, on sizes above those of shape.h, and on options
  // that the GPU does not serve.
  static Result<std::unique_ptr<DevicePlacement>> create(const RouteTables& tables);
  ~DevicePlacement();
  DevicePlacement(const DevicePlacement&) = delete;
  DevicePlacement& operator=(const DevicePlacement&) = delete;

  // Copies a new placement of the same sizes and options into the idle buffer, on any stream, while
  // replays still read the other one. May wait on the host for an earlier stage.
  Status stage(const RouteTables& tables, cudaStream_t stream);
  // Makes what was staged last the placement of everything enqueued on `stream` from here on.
  Status publish(cudaStream_t stream);

  const Shape& shape() const { return shape_; }
  const uint16_t* tables(int buffer) const { return tables_[buffer]; }  // device
  const uint8_t* active() const { return active_; }  // device: which buffer holds

 private:
  explicit DevicePlacement(const Shape& shape) : shape_(shape) {}
  Status allocate();

  Shape shape_;
  std::array<uint16_t*, 2> tables_{};
  std::array<uint16_t*, 2> pinned_{};
  std::array<cudaEvent_t, 2> staged_{};  // the copy out of pinned_ is done
  cudaEvent_t published_ = nullptr;      // nobody reads the buffer that was active before
  uint8_t* active_ = nullptr;
  int idle_ = 0;
};

}  // namespace plimsoll::gpu
