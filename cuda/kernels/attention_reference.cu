#include "cuda/kernels/attention.h"
#include "cuda/kernels/attention_output.cuh"

namespace plimsoll::gpu {
namespace {

constexpr int kThreads = 256;  // of a block: one token's head

__device__ double sum_of_block(double x, double* scratch) {
  scratch[threadIdx.x] = x;
  __syncthreads();
  for (int step = kThreads / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) scratch[threadIdx.x] += scratch[threadIdx.x + step];
    __syncthreads();
  }
  const double sum = scratch[0];
  __syncthreads();
  return sum;
}

// No largest logit is subtracted: float64 has room.
__global__ void attend_plainly(const AttentionInput in, float* plain) {
  __shared__ double scratch[kThreads];
  const int64_t token = blockIdx.x;
  const int head = blockIdx.y;
  const __nv_bfloat16* q = in.q + (token * in.heads + head) * kHeadDim;
  const int two = threadIdx.x * 2;  // this thread's dimensions
  double o[2] = {}, weight = exp(double{in.sink[head]});
  for (int j = 0; j < in.num_keys[token]; ++j) {
    const __nv_bfloat16* key = in.keys + int64_t{in.key_rows[token * in.key_stride + j]} * kHeadDim;
    const double x = __bfloat162float(key[two]), y = __bfloat162float(key[two + 1]);
    const double logit =
        sum_of_block(x * __bfloat162float(q[two]) + y * __bfloat162float(q[two + 1]), scratch);
    const double a = exp(logit * in.scale);
    o[0] += a * x;
    o[1] += a * y;
    weight += a;
  }
  float x = static_cast<float>(o[0] / weight), y = static_cast<float>(o[1] / weight);
  if (in.rotation != nullptr) turn_back(in.rotation + token * (kRotated / 2), two, x, y);
  float* to = plain + (token * in.heads + head) * kHeadDim + two;
  to[0] = x;
  to[1] = y;
}

}  // namespace

cudaError_t attention_reference(const AttentionInput& in, float* plain, cudaStream_t stream) {
  if (in.tokens == 0) return cudaSuccess;
  attend_plainly<<<dim3(in.tokens, in.heads), kThreads, 0, stream>>>(in, plain);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
