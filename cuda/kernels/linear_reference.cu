#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "cuda/kernels/linear.h"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {
namespace {

__device__ double from_e4m3(uint8_t bits) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
}

__device__ double weight_at(const LinearWeight& w, int row, int k) {
  const int64_t at = int64_t{row} * w.in + k;
  if (w.type == WeightType::kBfloat16) {
    return __bfloat162float(static_cast<const __nv_bfloat16*>(w.data)[at]);
  }
  return from_e4m3(static_cast<const uint8_t*>(w.data)[at]) *
         e8m0_value(w.scales[row / 128 * (w.in / 128) + k / 128]);
}

__device__ double operand_at(const Operand& x, int row, int k) {
  const auto* halves = static_cast<const __nv_bfloat16*>(x.data);
  const int64_t first = int64_t{row} * x.columns;
  switch (x.type) {
    case OperandType::kBfloat16:
      return __bfloat162float(halves[first + k]);
    case OperandType::kBfloat16Paired:
      return __bfloat162float(halves[first + k / 16 * 16 + paired_place(k % 16)]);
    case OperandType::kE4m3:
      return from_e4m3(static_cast<const uint8_t*>(x.data)[first + k]) *
             x.scales[k / 128 * scale_stride(x.rows) + row];
    case OperandType::kThreeBfloat16: {
      double sum = 0;
      for (int part = 0; part < 3; ++part) {
        sum += __bfloat162float(halves[3 * first + int64_t{part} * x.columns + k]);
      }
      return sum;
    }
  }
  return 0;
}

// A warp for each element.
__global__ void multiply_plainly(LinearWeight w, Operand x, LinearOutput y) {
  const int out = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int row = blockIdx.y;
  if (out >= w.out) return;
  const int first = out / (w.out / w.groups) * w.in;
  double sum = 0;
  for (int k = threadIdx.x % 32; k < w.in; k += 32) {
    sum += weight_at(w, out, k) * operand_at(x, row, first + k);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, step);
  if (threadIdx.x % 32 != 0) return;
  const int64_t at = row * y.stride + out;
  if (y.bfloat16) {
    static_cast<__nv_bfloat16*>(y.data)[at] = __double2bfloat16(sum);
  } else {
    static_cast<float*>(y.data)[at] = static_cast<float>(sum);
  }
}

}  // namespace

cudaError_t linear_reference(const LinearWeight& w,
                             const Operand& x,
                             const LinearOutput& y,
                             cudaStream_t stream) {
  if (x.rows == 0) return cudaSuccess;
  multiply_plainly<<<dim3((w.out + 7) / 8, x.rows), 256, 0, stream>>>(w, x, y);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
