// Sinkhorn's normalisation of a 4 x 4 matrix held by 16 lanes, entry (j, k) by lane 4j + k; the
// upper half of the warp repeats the lower.
#pragma once

#include <cuda_runtime.h>

namespace plimsoll::gpu {

__device__ inline float sum_over(float x, int first_step) {  // 1: of a row; 4: of a column
  x += __shfl_xor_sync(0xFFFFFFFF, x, first_step);
  return x + __shfl_xor_sync(0xFFFFFFFF, x, 2 * first_step);
}

// Softmax of each row plus eps, columns to 1, then rows and columns in turn (DeepSeek-V4's
// hc_split).
__device__ inline float sinkhorn(float logit, int iterations, float eps) {
  float largest = fmaxf(logit, __shfl_xor_sync(0xFFFFFFFF, logit, 1));
  largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFF, largest, 2));
  float c = expf(logit - largest);
  c = c / sum_over(c, 1) + eps;
  c /= sum_over(c, 4) + eps;
  for (int i = 1; i < iterations; ++i) {  // quick divisions, right to two units in the last place
    c = __fdividef(c, sum_over(c, 1) + eps);
    c = __fdividef(c, sum_over(c, 4) + eps);
  }
  return c;
}

}  // namespace plimsoll::gpu
