// A block scores 512 entries for one token: a warp has the copy engine bring the token's queries
// and then page after page of keys; a warpgroup multiplies 64 keys by 64 heads and adds up the
// heads.
#include "cuda/kernels/indexer.h"
#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/tensor_map.h"
#include "cuda/kernels/ptx/wgmma.cuh"

namespace plimsoll::gpu {
namespace {

constexpr int kPages = 8;  // of a block
constexpr int kStages = 4;
constexpr int kThreads = 160;
constexpr int kHalfBytes = 64 * 128;        // 64 rows, half of the channels
constexpr int kTileBytes = 2 * kHalfBytes;  // a page of keys, or a token's queries
constexpr int kSharedBytes = (1 + kStages) * kTileBytes + 1024 + 128;

struct Barriers {
  ptx::Mbarrier queries, full[kStages], empty[kStages];
};

__device__ void load_tile(const CUtensorMap* map, uint8_t* to, ptx::Mbarrier* barrier, int row) {
  barrier->arrive_and_expect(kTileBytes);
  ptx::load_box(map, to, barrier, 0, row);
  ptx::load_box(map, to + kHalfBytes, barrier, 64, row);
}

__global__ void __launch_bounds__(kThreads) score(const __grid_constant__ CUtensorMap query_map,
                                                  const __grid_constant__ CUtensorMap key_map,
                                                  const IndexerInput in,
                                                  float* scores) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* const queries = unaligned + (1024 - ptx::shared_address(unaligned) % 1024) % 1024;
  uint8_t* const stages = queries + kTileBytes;
  Barriers& barriers = *reinterpret_cast<Barriers*>(stages + kStages * kTileBytes);
  const int token = blockIdx.y;
  const int first_page = blockIdx.x * kPages;
  const int visible = in.visible[token];
  const int pages = min(kPages, (visible + kPageEntries - 1) / kPageEntries - first_page);
  if (pages <= 0) return;
  if (threadIdx.x == 0) {
    barriers.queries.init(1);
    for (int s = 0; s < kStages; ++s) {
      barriers.full[s].init(1);
      barriers.empty[s].init(4);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  const int warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
  if (warp == 4) {
    if (threadIdx.x % 32 != 0) return;
    load_tile(&query_map, queries, &barriers.queries, token * kIndexHeads);
    for (int p = 0; p < pages; ++p) {
      const int stage = p % kStages;
      barriers.empty[stage].wait(p / kStages % 2 ^ 1);
      load_tile(&key_map, stages + stage * kTileBytes, &barriers.full[stage],
                in.pages[token * in.page_stride + first_page + p]);
    }
    return;
  }
  const int t = threadIdx.x % 4;
  float weights[kIndexHeads / 4];  // of heads 8j + 2t and + 1
#pragma unroll
  for (int j = 0; j < kIndexHeads / 8; ++j) {
    const float2 pair =
        *reinterpret_cast<const float2*>(in.weights + token * kIndexHeads + 8 * j + 2 * t);
    weights[2 * j] = pair.x;
    weights[2 * j + 1] = pair.y;
  }
  const uint64_t queries_at = ptx::smem_descriptor(queries);
  barriers.queries.wait(0);
  for (int p = 0; p < pages; ++p) {
    const int stage = p % kStages;
    barriers.full[stage].wait(p / kStages % 2);
    const uint64_t keys_at = ptx::smem_descriptor(stages + stage * kTileBytes);
    float dots[kIndexHeads / 2];
    ptx::wgmma_begin();
#pragma unroll
    for (int k = 0; k < kIndexDim / 16; ++k) {
      const int at = k / 4 * (kHalfBytes >> 4) + k % 4 * 2;
      ptx::wgmma_bf16(dots, keys_at + at, queries_at + at, k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_hold(dots);
    if (threadIdx.x % 32 == 0) barriers.empty[stage].arrive();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kIndexHeads / 8; ++j) {
        sum = fmaf(weights[2 * j], fmaxf(dots[4 * j + 2 * r], 0), sum);
        sum = fmaf(weights[2 * j + 1], fmaxf(dots[4 * j + 2 * r + 1], 0), sum);
      }
      sum += __shfl_xor_sync(0xFFFFFFFF, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);
      const int entry = (first_page + p) * kPageEntries + warp * 16 + threadIdx.x % 32 / 4 + 8 * r;
      if (t == 0 && entry < visible) scores[int64_t{token} * in.max_entries + entry] = sum;
    }
  }
}

// A warp for each entry.
__global__ void score_plainly(const IndexerInput in, float* scores) {
  const int token = blockIdx.y;
  const int entry = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (entry >= in.visible[token]) return;
  const int64_t row =
      in.pages[token * in.page_stride + entry / kPageEntries] + entry % kPageEntries;
  double sum = 0;
  for (int h = threadIdx.x % 32; h < kIndexHeads; h += 32) {
    double dot = 0;
    for (int d = 0; d < kIndexDim; ++d) {
      dot += double{__bfloat162float(in.q[(int64_t{token} * kIndexHeads + h) * kIndexDim + d])} *
             __bfloat162float(in.keys[row * kIndexDim + d]);
    }
    sum += in.weights[token * kIndexHeads + h] * fmax(dot, 0.0);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, step);
  if (threadIdx.x % 32 == 0) scores[int64_t{token} * in.max_entries + entry] = sum;
}

bool fits(const IndexerInput& in) {
  return in.tokens >= 0 && in.max_entries > 0 && in.page_stride * kPageEntries >= in.max_entries &&
         in.key_rows > 0;
}

}  // namespace

cudaError_t index_scores(const IndexerInput& in, void* workspace, cudaStream_t stream) {
  if (!fits(in)) return cudaErrorInvalidValue;
  if (in.tokens == 0) return cudaSuccess;
  const cudaError_t prepared =
      cudaFuncSetAttribute(score, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (prepared != cudaSuccess) return prepared;
  CUtensorMap queries, keys;
  const auto describe = [](const void* data, int64_t rows, CUtensorMap* map) {
    return make_tensor_map(
        {data, BoxElement::kBfloat16, rows, kIndexDim, kIndexDim * 2, kPageEntries, 64}, map);
  };
  cudaError_t error = describe(in.q, int64_t{in.tokens} * kIndexHeads, &queries);
  if (error == cudaSuccess) error = describe(in.keys, in.key_rows, &keys);
  if (error != cudaSuccess) return error;
  constexpr int kEntries = kPages * kPageEntries;
  const dim3 grid((in.max_entries + kEntries - 1) / kEntries, in.tokens);
  score<<<grid, kThreads, kSharedBytes, stream>>>(queries, keys, in,
                                                  static_cast<float*>(workspace));
  return cudaGetLastError();
}

cudaError_t index_scores_reference(const IndexerInput& in, void* workspace, cudaStream_t stream) {
  if (!fits(in)) return cudaErrorInvalidValue;
  if (in.tokens == 0) return cudaSuccess;
  score_plainly<<<dim3((in.max_entries + 7) / 8, in.tokens), 256, 0, stream>>>(
      in, static_cast<float*>(workspace));
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
