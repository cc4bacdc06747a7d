#include "cuda/model/linear.h"

#include "cuda/device/for_each.h"

namespace plimsoll::gpu {
namespace {

struct MultiplyTile {
  PackedWeight w;
  Rows x;
  float* y;
  int64_t y_stride;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int output = static_cast<int>(i % w.outputs);
    const int first = static_cast<int>(i / w.outputs) * kTileRows;
    const int count = x.count - first < kTileRows ? x.count - first : kTileRows;
    const float* rows[kTileRows];
    float sums[kTileRows];
    for (int t = 0; t < kTileRows; ++t) rows[t] = x.data + (first + t) * x.stride;
    multiply_tile(w, output, rows, count, sums);
    for (int t = 0; t < kTileRows; ++t) {
      if (t < count) y[(first + t) * y_stride + output] = sums[t];
    }
  }
};

}  // namespace

void linear(Queue& queue, const PackedWeight& w, const Rows& x, float* y, int64_t y_stride) {
  const int64_t num_tiles = (x.count + kTileRows - 1) / kTileRows;
  for_each(queue, num_tiles * w.outputs, MultiplyTile{w, x, y, y_stride});
}

}  // namespace plimsoll::gpu
