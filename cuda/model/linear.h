// y = x Wᵀ in float32, with W as it lies in the checkpoint. Plain: one thread an output and eight
// rows. The reference that faster kernels are checked against; a row's bits depend on it alone.
#pragma once

#include "cuda/device/queue.h"
#include "cuda/model/packed_weight.h"

namespace plimsoll::gpu {

struct Rows {
  const float* data = nullptr;
  int64_t stride = 0;  // floats from one row to the next
  int count = 0;
};

// y: [x.count, w.outputs], rows `y_stride` floats apart.
void linear(Queue& queue, const PackedWeight& w, const Rows& x, float* y, int64_t y_stride);

}  // namespace plimsoll::gpu
