// What code for both the host and a GPU is written with. A machine without CUDA compiles the same
// files for the host alone.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define PLIMSOLL_HD __host__ __device__
#else
#define PLIMSOLL_HD
#endif

namespace plimsoll::gpu {

// a b + c: one rounding on a GPU, two on the host. Nothing else is fused (the build says so), so a
// result's bits hang on the code alone.
PLIMSOLL_HD inline float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace plimsoll::gpu
