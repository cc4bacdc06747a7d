#include "cuda/kernels/hyper_connection.h"
#include "cuda/kernels/operand_write.cuh"
#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/sinkhorn.cuh"

namespace plimsoll::gpu {
namespace {

constexpr int kTokens = 32;      // of a block of `mix`
constexpr int kSlice = 512;      // of a token's numbers, of a block
constexpr int kStep = 128;       // of a slice, in shared memory at a time
constexpr int kRow = kStep + 4;  // there: rows start four banks apart
constexpr int kStage = (kTokens + kMixRows) * kRow;
constexpr int kStages = 2;
constexpr int kSums = kMixRows + 1;  // of a slice: the rows of mix, and the squares
constexpr int kTokensOfThread = 4, kRowsOfThread = 6, kLanes = 8;
constexpr int kMixThreads = (kTokens / kTokensOfThread) * (kMixRows / kRowsOfThread) * kLanes;
constexpr int kMixBytes = kStages * kStage * int{sizeof(float)};

__device__ float dot(float4 a, float4 b, float sum) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
  sum = fmaf(a.z, b.z, sum);
  return fmaf(a.w, b.w, sum);
}

__device__ float sum_of_lanes(float x) {  // of eight neighbours
  x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
  x += __shfl_xor_sync(0xFFFFFFFF, x, 2);
  return x + __shfl_xor_sync(0xFFFFFFFF, x, 4);
}

struct MixInput {
  const float *streams, *rows;  // [tokens, width], [num_rows, width]
  int tokens, num_rows, width;
};

// Starts copying a step of the block's tokens, then of the rows of mix; what is not there is 0.
__device__ void copy_step(const MixInput& in, int first_token, int first, float* stage) {
  constexpr int kFours = kStep / 4;
  for (int i = threadIdx.x; i < (kTokens + kMixRows) * kFours; i += kMixThreads) {
    const int row = i / kFours, k = i % kFours * 4;
    const bool token = row < kTokens;
    const int at = token ? first_token + row : row - kTokens;
    const bool there = at < (token ? in.tokens : in.num_rows);
    const float* from = (token ? in.streams : in.rows) + int64_t{there ? at : 0} * in.width;
    ptx::copy_16(stage + row * kRow + k, from + first + k, there);
  }
  ptx::commit_copies();
}

// sums: [slices, tokens, 25]. A thread multiplies four tokens by six rows over every eighth four of
// the slice's numbers.
__global__ void __launch_bounds__(kMixThreads) mix(const MixInput in, float* sums) {
  extern __shared__ float4 shared[];
  float* const stages = reinterpret_cast<float*>(shared);
  const int first = blockIdx.x * kSlice, first_token = blockIdx.y * kTokens;
  const int steps = min(kSlice, in.width - first) / kStep;
  const int lane = threadIdx.x % kLanes;
  const int my_rows = threadIdx.x / kLanes % (kMixRows / kRowsOfThread) * kRowsOfThread;
  const int my_tokens = threadIdx.x / kLanes / (kMixRows / kRowsOfThread) * kTokensOfThread;
  float sum[kTokensOfThread][kRowsOfThread] = {}, squares[kTokensOfThread] = {};
  copy_step(in, first_token, first, stages);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      copy_step(in, first_token, first + (step + 1) * kStep,
                stages + (step + 1) % kStages * kStage);
      ptx::wait_copies<1>();
    } else {
      ptx::wait_copies<0>();
    }
    __syncthreads();
    const float* x = stages + step % kStages * kStage;
    const float* w = x + kTokens * kRow;
#pragma unroll
    for (int k = lane * 4; k < kStep; k += 4 * kLanes) {
      float4 b[kRowsOfThread];
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
        b[r] = *reinterpret_cast<const float4*>(w + (my_rows + r) * kRow + k);
      }
#pragma unroll
      for (int t = 0; t < kTokensOfThread; ++t) {
        const float4 a = *reinterpret_cast<const float4*>(x + (my_tokens + t) * kRow + k);
#pragma unroll
        for (int r = 0; r < kRowsOfThread; ++r) sum[t][r] = dot(a, b[r], sum[t][r]);
        squares[t] = dot(a, a, squares[t]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int t = 0; t < kTokensOfThread; ++t) {
    const int token = first_token + my_tokens + t;
    float* to = sums + (int64_t{blockIdx.x} * in.tokens + token) * kSums;
    const bool writes = lane == 0 && token < in.tokens;
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      const float whole = sum_of_lanes(sum[t][r]);
      if (writes) to[my_rows + r] = whole;
    }
    const float whole = sum_of_lanes(squares[t]);
    if (writes && my_rows == 0) to[kMixRows] = whole;
  }
}

constexpr int kWarps =
    8;  // of a block of `apply`, one token, that collapse; one more finds weights
constexpr int kMostPieces = 8192 / kPiece / kWarps;

// One token's weights from its slices' sums, by one warp: pre into `pre`, which the whole block
// waits for; then post and comb, while the others collapse.
__device__ void find_weights(const HyperConnection& site,
                             const float* sums,
                             int tokens,
                             int slices,
                             float* spread,
                             float* pre) {
  const int lane = threadIdx.x % 32, token = blockIdx.x;
  float sum = 0;
  if (lane < kSums) {
#pragma unroll 8
    for (int s = 0; s < slices; ++s) sum += sums[(int64_t{s} * tokens + token) * kSums + lane];
  }
  const float squares = __shfl_sync(0xFFFFFFFF, sum, kMixRows);
  const float m = sum * rsqrtf(squares / (4.0f * site.hidden) + site.norm_eps);
  const int kind = lane < kStreams ? 0 : lane < 2 * kStreams ? 1 : 2;
  const bool used = lane < (site.pre_only ? kStreams : kMixRows);
  const float logit = used ? m * site.scale[kind] + site.base[lane] : 0;
  const float share = 1.0f / (1.0f + expf(-logit));
  if (lane < kStreams) pre[lane] = share + site.eps;
  __syncthreads();
  if (spread == nullptr || site.pre_only) return;
  if (kind == 1) spread[token * 20 + lane - kStreams] = 2.0f * share;
  const float entry = __shfl_sync(0xFFFFFFFF, logit, 2 * kStreams + lane % 16);
  const float comb = sinkhorn(entry, site.sinkhorn_iterations, site.eps);
  if (lane < 16) spread[token * 20 + kStreams + lane] = comb;
}

template <int kPieces>  // of 128 channels, of a warp
__global__ void __launch_bounds__(kWarps * 32 + 32) apply(const HyperConnection site,
                                                          const float* streams,
                                                          const float* sums,
                                                          int tokens,
                                                          int slices,
                                                          const Collapsed out) {
  __shared__ float pre[kStreams], squares_of_warp[kWarps];
  const int token = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == kWarps) {
    find_weights(site, sums, tokens, slices, out.spread, pre);
    return;
  }
  const int pieces = site.hidden / kPiece;
  const float* x = streams + int64_t{token} * kStreams * site.hidden;
  float4 v[kPieces][kStreams];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int piece = warp + p * kWarps;
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      if (piece < pieces) {
        v[p][j] = *reinterpret_cast<const float4*>(x + j * site.hidden + piece * kPiece + lane * 4);
      }
    }
  }
  __syncthreads();
  float u[kPieces][4], squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (warp + p * kWarps >= pieces) continue;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      sum.x = fmaf(pre[j], v[p][j].x, sum.x);
      sum.y = fmaf(pre[j], v[p][j].y, sum.y);
      sum.z = fmaf(pre[j], v[p][j].z, sum.z);
      sum.w = fmaf(pre[j], v[p][j].w, sum.w);
    }
    squares = dot(sum, sum, squares);
    u[p][0] = sum.x;
    u[p][1] = sum.y;
    u[p][2] = sum.z;
    u[p][3] = sum.w;
  }
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xFFFFFFFF, squares, step);
  if (lane == 0) squares_of_warp[warp] = squares;
  ptx::named_barrier(1, kWarps * 32);
  squares = 0;
  for (int w = 0; w < kWarps; ++w) squares += squares_of_warp[w];
  const float share = rsqrtf(squares / site.hidden + site.norm_eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int piece = warp + p * kWarps;
    if (piece >= pieces) continue;
    const int k = piece * kPiece + lane * 4;
    const float4 norm = *reinterpret_cast<const float4*>(site.norm + k);
    const float y[4] = {u[p][0] * share * norm.x, u[p][1] * share * norm.y,
                        u[p][2] * share * norm.z, u[p][3] * share * norm.w};
    if (out.plain != nullptr) {
      *reinterpret_cast<float4*>(out.plain + int64_t{token} * site.hidden + k) =
          make_float4(y[0], y[1], y[2], y[3]);
    }
    if (out.operand.data != nullptr) write_operand(out.operand, token, k, y);
    if (out.second.data != nullptr) write_operand(out.second, token, k, y);
  }
}

// A thread has four channels of all streams.
__global__ void spread_out(const float* o, const float* spread, int hidden, float* streams) {
  const int token = blockIdx.y;
  const int k = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (k >= hidden) return;
  const float* weights = spread + token * 20;
  float* x = streams + int64_t{token} * kStreams * hidden + k;
  const float4 y = *reinterpret_cast<const float4*>(o + int64_t{token} * hidden + k);
  float4 v[kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) v[j] = *reinterpret_cast<const float4*>(x + j * hidden);
#pragma unroll
  for (int to = 0; to < kStreams; ++to) {
    const float post = weights[to];
    float4 sum = make_float4(post * y.x, post * y.y, post * y.z, post * y.w);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const float comb = weights[kStreams + j * kStreams + to];
      sum.x = fmaf(comb, v[j].x, sum.x);
      sum.y = fmaf(comb, v[j].y, sum.y);
      sum.z = fmaf(comb, v[j].z, sum.z);
      sum.w = fmaf(comb, v[j].w, sum.w);
    }
    *reinterpret_cast<float4*>(x + to * hidden) = sum;
  }
}

int slices_of(int hidden) {
  return (kStreams * hidden + kSlice - 1) / kSlice;
}

bool fits(const HyperConnection& site, int tokens, const Collapsed& out) {
  const auto good = [&](const Operand& x) {
    return x.data == nullptr || (x.rows == tokens && x.columns == site.hidden);
  };
  return tokens >= 0 && site.hidden > 0 && site.hidden % kPiece == 0 &&
         site.hidden <= kMostPieces * kWarps * kPiece && good(out.operand) && good(out.second);
}

}  // namespace

size_t collapse_workspace_bytes(int tokens, int hidden) {
  return size_t(slices_of(hidden)) * tokens * kSums * sizeof(float);
}

cudaError_t collapse(const HyperConnection& site,
                     const float* streams,
                     int tokens,
                     const Collapsed& out,
                     void* workspace,
                     cudaStream_t stream) {
  if (!fits(site, tokens, out)) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  const cudaError_t prepared =
      cudaFuncSetAttribute(mix, cudaFuncAttributeMaxDynamicSharedMemorySize, kMixBytes);
  if (prepared != cudaSuccess) return prepared;
  const int slices = slices_of(site.hidden);
  auto* sums = static_cast<float*>(workspace);
  mix<<<dim3(slices, (tokens + kTokens - 1) / kTokens), kMixThreads, kMixBytes, stream>>>(
      {streams, site.mix, tokens, site.pre_only ? kStreams : kMixRows, kStreams * site.hidden},
      sums);
  if (site.hidden <= 4096) {
    apply<4><<<tokens, kWarps * 32 + 32, 0, stream>>>(site, streams, sums, tokens, slices, out);
  } else {
    apply<kMostPieces>
        <<<tokens, kWarps * 32 + 32, 0, stream>>>(site, streams, sums, tokens, slices, out);
  }
  return cudaGetLastError();
}

cudaError_t expand(const float* o,
                   const float* spread,
                   int tokens,
                   int hidden,
                   float* streams,
                   cudaStream_t stream) {
  if (tokens < 0 || hidden <= 0 || hidden % 4 != 0) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  const int blocks = (hidden / 4 + kThreads - 1) / kThreads;
  spread_out<<<dim3(blocks, tokens), kThreads, 0, stream>>>(o, spread, hidden, streams);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
