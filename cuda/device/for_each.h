// Runs function(i) for i = 0 .. count - 1 on a queue, in no order: a thread each on a GPU, a plain
// loop on the host. Files that include this are compiled by nvcc where there is CUDA.
#pragma once

#include <cstdint>

#include "cuda/device/host_device.h"
#include "cuda/device/queue.h"
#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

namespace plimsoll::gpu {

#ifdef __CUDACC__
template <typename Function>
__global__ void run_each(int64_t count, Function function) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    function(i);
  }
}
#endif

template <typename Function>
void for_each(Queue& queue, int64_t count, const Function& function) {
  if (queue.failed() || count == 0) return;
#ifdef __CUDACC__
  if (queue.place() == Place::kGpu) {
    constexpr int kThreads = 128;
    constexpr int64_t kMostBlocks = 1 << 20;
    const int64_t blocks = (count + kThreads - 1) / kThreads;
    run_each<<<static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0,
               static_cast<cudaStream_t>(queue.stream())>>>(count, function);
    queue.check_launch();
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) function(i);
}

}  // namespace plimsoll::gpu
