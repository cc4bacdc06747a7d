// The exact best k of a row of scores: a block finds the k-th largest byte by byte, from counts,
// and writes the entries that reach it in order. Where more than k reach it, equals straddle the
// border, and one thread replays the CPU's choice.
#include <cmath>

#include "cuda/kernels/indexer.h"
#include "model/kernels/top_scores.h"

namespace plimsoll::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMostTopK = 2048;

// Orders as the floats do.
__device__ uint32_t sortable(float score) {
  const uint32_t bits = __float_as_uint(score);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

struct Border {
  uint32_t bits;  // the k-th largest score, sortable
  int surplus;    // how many equal it beyond what k has room for
};

// Of 256 counts, best last: the one in which the `room`-th falls, by the first 256 threads, a count
// each. Sets *byte, takes what lies above it off *room, and sets *equal to the count itself.
__device__ void find_byte(const int* counts, int* byte, int* room, int* equal) {
  __shared__ int of_warp[8];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wanted = *room;
  const int mine = threadIdx.x < 256 ? counts[255 - threadIdx.x] : 0;
  int above = mine;  // and with it, those of better bytes
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFF, above, step);
    if (lane >= step) above += other;
  }
  if (lane == 31 && warp < 8) of_warp[warp] = above;
  __syncthreads();
  if (threadIdx.x < 256) {
    for (int w = 0; w < warp; ++w) above += of_warp[w];
    if (above >= wanted && above - mine < wanted) {
      *byte = 255 - static_cast<int>(threadIdx.x);
      *room = wanted - (above - mine);
      *equal = mine;
    }
  }
  __syncthreads();
}

__device__ Border find_border(const float* scores, int n, int k) {
  __shared__ int counts[256];
  __shared__ uint32_t border;
  __shared__ int byte, room, equal;
  if (threadIdx.x == 0) {
    border = 0;
    room = k;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) counts[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t found = shift == 24 ? 0 : ~0u << (shift + 8);  // bits known so far
    for (int i = threadIdx.x; i < n; i += kThreads) {
      const uint32_t bits = sortable(scores[i]);
      if ((bits & found) == border) atomicAdd(&counts[bits >> shift & 255], 1);
    }
    __syncthreads();
    find_byte(counts, &byte, &room, &equal);
    if (threadIdx.x == 0) border |= static_cast<uint32_t>(byte) << shift;
    __syncthreads();
  }
  return {border, equal - room};
}

// Writes the indices below n for which `chosen` holds, in order; all threads call it.
template <typename Chosen>
__device__ void write_in_order(int n, Chosen chosen, int32_t* to) {
  __shared__ int of_warp[kWarps];
  int written = 0;
  for (int first = 0; first < n; first += kThreads) {
    const int i = first + threadIdx.x;
    const bool mine = i < n && chosen(i);
    const unsigned lanes = __ballot_sync(0xFFFFFFFF, mine);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = __popc(lanes);
    __syncthreads();
    int before = written;
    for (int w = 0; w < kWarps; ++w) {
      before += w < threadIdx.x / 32 ? of_warp[w] : 0;
      written += of_warp[w];
    }
    if (mine) to[before + __popc(lanes & ((1u << threadIdx.x % 32) - 1))] = i;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    select(const IndexerInput in, const float* all_scores, ScoredEntry* all_entries, Selection to) {
  const int64_t token = blockIdx.x;
  const float* scores = all_scores + token * in.max_entries;
  int32_t* out = to.entries + token * in.top_k;
  const int n = in.visible[token], k = min(in.top_k, n);
  if (threadIdx.x == 0) to.count[token] = k;
  if (n <= in.top_k) {
    for (int i = threadIdx.x; i < n; i += kThreads) out[i] = i;
    return;
  }
  const Border border = find_border(scores, n, k);
  if (border.surplus == 0) {
    write_in_order(
        n, [&](int i) { return sortable(scores[i]) >= border.bits; }, out);
    return;
  }
  // The same steps as the CPU's, then the first k in order: chosen entries are marked in place of
  // their scores.
  ScoredEntry* row = all_entries + token * in.max_entries;
  const int length = in.row_lengths[token];
  for (int i = threadIdx.x; i < length; i += kThreads) {
    row[i] = {i < n ? scores[i] : -INFINITY, i};
  }
  __syncthreads();
  if (threadIdx.x == 0) select_best({row, static_cast<size_t>(length)}, k);
  __syncthreads();
  __shared__ int32_t best[kMostTopK];
  for (int i = threadIdx.x; i < k; i += kThreads) best[i] = row[i].index;
  __syncthreads();
  for (int i = threadIdx.x; i < length; i += kThreads) row[i].index = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < k; i += kThreads) row[best[i]].index = 1;
  __syncthreads();
  write_in_order(
      length, [&](int i) { return row[i].index == 1; }, out);
}

size_t score_bytes(int tokens, int max_entries) {
  return (size_t(tokens) * max_entries * sizeof(float) + 15) / 16 * 16;
}

}  // namespace

size_t indexer_workspace_bytes(int tokens, int max_entries) {
  return score_bytes(tokens, max_entries) + size_t(tokens) * max_entries * sizeof(ScoredEntry);
}

cudaError_t select_top(const IndexerInput& in,
                       void* workspace,
                       const Selection& to,
                       cudaStream_t stream) {
  if (in.tokens < 0 || in.max_entries <= 0 || in.top_k <= 0 || in.top_k > kMostTopK) {
    return cudaErrorInvalidValue;
  }
  if (in.tokens == 0) return cudaSuccess;
  auto* entries = reinterpret_cast<ScoredEntry*>(static_cast<uint8_t*>(workspace) +
                                                 score_bytes(in.tokens, in.max_entries));
  select<<<in.tokens, kThreads, 0, stream>>>(in, static_cast<const float*>(workspace), entries, to);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
