#include "cuda/kernels/norm.h"
#include "cuda/kernels/operand_write.cuh"

namespace plimsoll::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kRotated = 64;

__device__ float sum_of_warp(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, step);
  return x;
}

// Four numbers from `at` on, a multiple of 4.
__device__ void load_four(const NormInput& x, int64_t at, float (&v)[4]) {
  if (x.bfloat16) {
    const uint2 raw =
        *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(x.data) + at);
    const float2 low = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(raw.x));
    const float2 high = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(raw.y));
    v[0] = low.x;
    v[1] = low.y;
    v[2] = high.x;
    v[3] = high.y;
  } else {
    const float4 raw = *reinterpret_cast<const float4*>(static_cast<const float*>(x.data) + at);
    v[0] = raw.x;
    v[1] = raw.y;
    v[2] = raw.z;
    v[3] = raw.w;
  }
}

// A block norms a row; a warp has every eighth 128 channels.
__global__ void __launch_bounds__(kWarps * 32)
    norm_row(const NormInput x, const float* weight, const Operand to) {
  __shared__ float squares_of_warp[kWarps];
  const int row = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float v[4], squares = 0;
  for (int k = warp * kPiece + lane * 4; k < to.columns; k += kWarps * kPiece) {
    load_four(x, row * x.stride + k, v);
    for (const float y : v) squares = fmaf(y, y, squares);
  }
  squares = sum_of_warp(squares);
  if (lane == 0) squares_of_warp[warp] = squares;
  __syncthreads();
  squares = 0;
  for (const float s : squares_of_warp) squares += s;
  const float share = rsqrtf(squares / to.columns + x.eps);
  for (int k = warp * kPiece + lane * 4; k < to.columns; k += kWarps * kPiece) {
    load_four(x, row * x.stride + k, v);  // from the first-level cache
    const float4 w = *reinterpret_cast<const float4*>(weight + k);
    const float y[4] = {v[0] * share * w.x, v[1] * share * w.y, v[2] * share * w.z,
                        v[3] * share * w.w};
    write_operand(to, row, k, y);
  }
}

// A warp does a head; the last 64 numbers lie with the last 16 lanes of its last piece.
template <int kDim>
__global__ void __launch_bounds__(kWarps * 32) norm_heads(const NormInput x, const Heads h) {
  constexpr int kPieces = kDim / kPiece;
  const int64_t head = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (head >= int64_t{h.tokens} * h.heads) return;
  const int64_t token = head / h.heads;
  const int64_t row = h.rows == nullptr ? head : h.rows[token];
  if (row < 0) return;
  float v[kPieces][4], squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    load_four(x, token * x.stride + head % h.heads * kDim + p * kPiece + lane * 4, v[p]);
    for (const float y : v[p]) squares = fmaf(y, y, squares);
  }
  const float share = h.norm ? rsqrtf(sum_of_warp(squares) / kDim + x.eps) : 1.0f;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int k = p * kPiece + lane * 4;
    for (float& y : v[p]) y *= share;
    if (h.weight != nullptr) {
      const float4 w = *reinterpret_cast<const float4*>(h.weight + k);
      v[p][0] *= w.x;
      v[p][1] *= w.y;
      v[p][2] *= w.z;
      v[p][3] *= w.w;
    }
    if (k >= kDim - kRotated) {
      const float4 turns = *reinterpret_cast<const float4*>(h.rotation + token * (kRotated / 2) +
                                                            (k - (kDim - kRotated)) / 2);
      const float a = v[p][0], b = v[p][1], c = v[p][2], d = v[p][3];
      v[p][0] = a * turns.x - b * turns.y;
      v[p][1] = a * turns.y + b * turns.x;
      v[p][2] = c * turns.z - d * turns.w;
      v[p][3] = c * turns.w + d * turns.z;
    }
    write_bfloat16(h.to + row * kDim + k, v[p]);
  }
}

}  // namespace

cudaError_t rms_norm(const NormInput& x,
                     const float* weight,
                     const Operand& to,
                     cudaStream_t stream) {
  if (to.rows < 0 || to.columns <= 0 || to.columns % kPiece != 0 || to.columns > 8192) {
    return cudaErrorInvalidValue;
  }
  if (to.rows == 0) return cudaSuccess;
  norm_row<<<to.rows, kWarps * 32, 0, stream>>>(x, weight, to);
  return cudaGetLastError();
}

cudaError_t norm_and_rotate(const NormInput& x, const Heads& h, cudaStream_t stream) {
  const bool fits =
      h.tokens >= 0 && h.heads > 0 && (h.rows == nullptr || h.heads == 1) && h.rotation != nullptr;
  if (!fits || (h.dim != 128 && h.dim != 512)) return cudaErrorInvalidValue;
  if (h.tokens == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((int64_t{h.tokens} * h.heads + kWarps - 1) / kWarps);
  const auto kernel = h.dim == 128 ? norm_heads<128> : norm_heads<512>;
  kernel<<<blocks, kWarps * 32, 0, stream>>>(x, h);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
