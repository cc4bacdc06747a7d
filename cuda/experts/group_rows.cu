#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/experts/group_rows.h"
#include "cuda/experts/worklist.cuh"
#include "cuda/kernels/operand.h"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kInputs = 16;  // of a row that one thread quantises

__global__ void __launch_bounds__(1024) number_choices(RoutedTokens tokens, GroupBuffers to) {
  __shared__ int counts[kMaxSlots];
  __shared__ int warp_sums[32];
  counts[threadIdx.x] = 0;
  __syncthreads();
  const int num_choices = tokens.tokens * tokens.top_k;
  for (int i = threadIdx.x; i < num_choices; i += blockDim.x) {
    const int slot = tokens.slots[i];
    if (slot >= 0) to.ranks[i] = atomicAdd(&counts[slot], 1);
  }
  __syncthreads();
  list_tiles(counts[threadIdx.x], to.sizes.num_slots, to.offsets, to.tiles, to.num_tiles,
             warp_sums);
}

struct Inputs {
  float v[kInputs];
};

// Zeros past the row's end.
__device__ Inputs read_inputs(const RoutedTokens& tokens, int token, int at) {
  Inputs in = {};
  if (at >= tokens.hidden) return in;
  const __nv_bfloat16* x = tokens.x + static_cast<size_t>(token) * tokens.hidden + at;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 piece = reinterpret_cast<const uint4*>(x)[half];
    const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      in.v[half * 8 + 2 * i] = __uint_as_float(words[i] << 16);
      in.v[half * 8 + 2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000);
    }
  }
  return in;
}

__device__ float peak_of(const Inputs& in) {
  float peak = 0;
#pragma unroll
  for (int i = 0; i < kInputs; ++i) peak = fmaxf(peak, fabsf(in.v[i]));
  return peak;
}

__device__ float peak_of_block(float peak) {
  __shared__ float peaks[kThreads / 32];
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, lanes));
  }
  if (threadIdx.x % 32 == 0) peaks[threadIdx.x / 32] = peak;
  __syncthreads();
  for (float of_warp : peaks) peak = fmaxf(peak, of_warp);
  return peak;
}

// 2^d with peak · 2^d in [2^14, 2^15).
__device__ float fp16_row_scale(float peak) {
  const int exponent = static_cast<int>(__float_as_uint(peak) >> 23);  // biased
  const int scale = min(max(14 + 127 - exponent, -100), 100);
  return __uint_as_float(static_cast<uint32_t>(scale + 127) << 23);
}

// Both 16-byte pieces of 16 inputs, in the order of paired_place.
__device__ void quantise_fp16(const Inputs& in, float scale, uint4 (&pieces)[2]) {
  __half places[kInputs];
#pragma unroll
  for (int k = 0; k < kInputs; ++k) places[paired_place(k)] = __float2half_rn(in.v[k] * scale);
  memcpy(pieces, places, sizeof places);
}

__device__ uint4 quantise_e4m3(const Inputs& in, float scale) {
  const float inverse = 1.0f / scale;  // exact: a power of two
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = __nv_cvt_float2_to_fp8x2(
        {in.v[4 * i] * inverse, in.v[4 * i + 1] * inverse}, __NV_SATFINITE, __NV_E4M3);
    const uint32_t high = __nv_cvt_float2_to_fp8x2(
        {in.v[4 * i + 2] * inverse, in.v[4 * i + 3] * inverse}, __NV_SATFINITE, __NV_E4M3);
    words[i] = low | high << 16;
  }
  return {words[0], words[1], words[2], words[3]};
}

// A block a token: reads its row once, writes it to every slot it chose.
template <Activation kActivation>
__global__ void __launch_bounds__(kThreads) copy_rows(RoutedTokens tokens, GroupBuffers to) {
  __shared__ int rows[32];
  const int token = blockIdx.x;
  if (threadIdx.x < tokens.top_k) {
    const int choice = token * tokens.top_k + threadIdx.x;
    const int slot = tokens.slots[choice];
    const int row = slot < 0 ? -1 : to.offsets[slot] + to.ranks[choice];
    rows[threadIdx.x] = row;
    if (row >= 0) {
      to.weights[row] = tokens.weights[choice];
      to.homes[row] = choice;
    }
  }
  float row_scale = 1;
  if constexpr (kActivation == Activation::kFp16) {
    float peak = 0;
    for (int at = threadIdx.x * kInputs; at < tokens.hidden; at += kThreads * kInputs) {
      peak = fmaxf(peak, peak_of(read_inputs(tokens, token, at)));
    }
    row_scale = fp16_row_scale(peak_of_block(peak));
  }
  __syncthreads();
  const int padded = num_blocks(tokens.hidden) * kBlockInputs;
  for (int at = threadIdx.x * kInputs; at < padded; at += kThreads * kInputs) {
    const Inputs in = read_inputs(tokens, token, at);
    uint4 pieces[2];
    float scale = row_scale;
    if constexpr (kActivation == Activation::kFp16) {
      quantise_fp16(in, row_scale, pieces);
    } else {
      float peak = peak_of(in);  // eight threads have 128 inputs; padded is a multiple of that
      for (int lanes = 1; lanes < 8; lanes *= 2) {
        peak = fmaxf(peak, __shfl_xor_sync(0xFFu << (threadIdx.x % 32 / 8 * 8), peak, lanes));
      }
      scale = e4m3_scale(peak);
      pieces[0] = quantise_e4m3(in, scale);
    }
    constexpr int kPieces = kActivation == Activation::kFp16 ? 2 : 1;
    const int piece = at / kInputs * kPieces;  // of the row
    for (int i = 0; i < tokens.top_k; ++i) {
      const int row = rows[i];
      if (row < 0) continue;
      uint4* chunk = reinterpret_cast<uint4*>(
          to.x.data + (static_cast<size_t>(piece / 8) * to.capacity + row) * 128);
#pragma unroll
      for (int p = 0; p < kPieces; ++p) chunk[(piece + p) % 8 ^ (row % 8)] = pieces[p];
      if constexpr (kActivation == Activation::kE4m3) {
        if (piece % 8 == 0) {
          to.x.scales[static_cast<size_t>(piece / 8) * to.capacity + row] = scale;
        }
      }
    }
  }
  if constexpr (kActivation == Activation::kFp16) {
    if (threadIdx.x < tokens.top_k && rows[threadIdx.x] >= 0) {
      to.x.scales[rows[threadIdx.x]] = 1.0f / row_scale;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    add_choices(RoutedTokens tokens, const float* y, const float* shared, float* out) {
  const int token = blockIdx.x;
  const int vectors = tokens.hidden / 4;
  const int* slots = tokens.slots + static_cast<size_t>(token) * tokens.top_k;
  for (int at = threadIdx.x; at < vectors; at += kThreads) {
    float4 sum = {0, 0, 0, 0};
    const auto add = [&](const float* rows, size_t row) {
      const float4 v = reinterpret_cast<const float4*>(rows + row * tokens.hidden)[at];
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    };
    for (int i = 0; i < tokens.top_k; ++i) {
      if (slots[i] >= 0) add(y, static_cast<size_t>(token) * tokens.top_k + i);
    }
    if (shared != nullptr) add(shared, token);
    reinterpret_cast<float4*>(out + static_cast<size_t>(token) * tokens.hidden)[at] = sum;
  }
}

bool fits(const RoutedTokens& tokens, const GroupSizes& sizes) {
  return tokens.tokens >= 0 && tokens.tokens <= sizes.max_tokens && tokens.top_k == sizes.top_k &&
         tokens.hidden == sizes.hidden && sizes.num_slots <= kMaxSlots && sizes.top_k <= 32;
}

}  // namespace

GroupBuffers group_buffers(const GroupSizes& sizes, void* base) {
  GroupBuffers b;
  b.sizes = sizes;
  b.capacity = row_capacity(sizes.max_tokens, sizes.top_k, sizes.num_slots);
  const size_t rows = static_cast<size_t>(b.capacity);
  const size_t choices = static_cast<size_t>(sizes.max_tokens) * sizes.top_k;
  const bool e4m3 = sizes.activation == Activation::kE4m3;
  const auto take = [&](auto*& part, size_t count) {
    part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(static_cast<char*>(base) +
                                                                     b.bytes);
    b.bytes += (count * sizeof *part + 1023) / 1024 * 1024;
  };
  const auto take_rows = [&](ActivationRows& part, int inputs, bool scaled) {
    const size_t blocks = static_cast<size_t>(num_blocks(inputs));
    take(part.data, blocks * chunks_per_block(sizes.activation) * rows * 128);
    if (scaled) take(part.scales, e4m3 ? blocks * rows : rows);
  };
  take(b.offsets, static_cast<size_t>(sizes.num_slots));
  take(b.ranks, choices);
  take(b.tiles, choices / kMaxTileTokens + sizes.num_slots + 1);
  take(b.num_tiles, 1);
  take(b.weights, rows);
  take(b.homes, rows);
  take_rows(b.x, sizes.hidden, true);
  take_rows(b.h, sizes.intermediate, e4m3);
  return b;
}

GroupedRows grouped_rows(const GroupBuffers& b) {
  return {b.sizes.activation, b.capacity, b.tiles, b.num_tiles, b.weights, b.homes};
}

cudaError_t group_rows(const RoutedTokens& tokens,
                       const GroupBuffers& buffers,
                       cudaStream_t stream) {
  if (!fits(tokens, buffers.sizes)) return cudaErrorInvalidValue;
  number_choices<<<1, kMaxSlots, 0, stream>>>(tokens, buffers);
  if (tokens.tokens > 0) {
    if (buffers.sizes.activation == Activation::kFp16) {
      copy_rows<Activation::kFp16><<<tokens.tokens, kThreads, 0, stream>>>(tokens, buffers);
    } else {
      copy_rows<Activation::kE4m3><<<tokens.tokens, kThreads, 0, stream>>>(tokens, buffers);
    }
  }
  return cudaGetLastError();
}

cudaError_t sum_choices(const RoutedTokens& tokens,
                        const float* y,
                        const float* shared,
                        float* out,
                        cudaStream_t stream) {
  if (tokens.hidden % 4 != 0) return cudaErrorInvalidValue;
  if (tokens.tokens == 0) return cudaSuccess;
  add_choices<<<tokens.tokens, kThreads, 0, stream>>>(tokens, y, shared, out);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
