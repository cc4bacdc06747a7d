// The kernels: count, and route with or without counting its own source first. A cluster of blocks
// does one source rank's work; its blocks share the tokens and the columns of the count matrix, and
// each solves for itself, which is quicker than waiting for another's answer.
#include <climits>

#include "cuda/balance/assign.cuh"
#include "cuda/balance/quotas.cuh"
#include "cuda/balance/solve.cuh"

namespace plimsoll::gpu {
namespace {

struct Problem {
  Shape shape;
  Memory memory;
  const uint16_t* packed[2];  // null for counting alone
  const uint8_t* active;      // which of the two holds
};

__device__ Block this_block(const Shape& shape, int first_source) {
  const int block = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  return {shape, first_source + block / kBlocks, block % kBlocks, thread, thread / 32, thread % 32};
}

__device__ void load_tables(const Block& b, const uint16_t* packed, int size, const Tables& t) {
  const uint4* from = reinterpret_cast<const uint4*>(packed);
  for (int i = b.thread; i < size / 8; i += kThreads) {
    reinterpret_cast<uint4*>(&t.packed[0])[i] = from[i];
  }
}

// What each rank that holds a copy of an item asks of it, as far as the matrix tells.
__device__ void load_locals(
    const Block& b, const Tables& t, const int32_t* counts, bool has_own_row, const Scratch& s) {
  for (int r = b.thread; r < b.shape.num_ranks; r += kThreads) {
    if (r == b.source && !has_own_row) continue;
    s.tokens[r] = counts[static_cast<size_t>(r) * b.shape.row_size() + b.shape.num_experts];
  }
#pragma unroll 1
  for (int a = b.thread; a < t.num_arcs; a += kThreads) {
    const int r = t.arc_rank[a];
    const int expert = t.item_expert[t.arc_item[a]];
    if (r == b.source && !has_own_row) continue;
    const int column = expert == kNone ? b.shape.num_experts : expert;
    const int units = counts[static_cast<size_t>(r) * b.shape.row_size() + column];
    s.local[a] = expert == kNone ? b.shape.num_shared_experts * units : units;
  }
}

// What this source counted of one expert, or of active tokens.
__device__ int sum_of_blocks(const Block& b, const Scratch& s, int e) {
  int sum = 0;
#pragma unroll
  for (int c = 0; c < kBlocks; ++c) sum += s.sent_counts[c * b.shape.count_row_size() + e];
  return sum;
}

// Puts the blocks' counts together: totals over all sources, this source's own, and the number of
// the first choice of each item in this block and its warps. own_row: this source's row of the
// matrix if it is there already.
__device__ void gather(const Block& b, const Tables& t, const int32_t* own_row, const Scratch& s) {
#pragma unroll 1
  for (int e = b.thread; e < b.shape.num_experts; e += kThreads) {
    const int own = own_row == nullptr ? sum_of_blocks(b, s, e) : own_row[e];
    s.own[e] = own;
    s.total[e] = s.column_total[e] + (own_row == nullptr ? own : 0);
  }
  const int num_items = b.shape.max_items();
#pragma unroll 1
  for (int i = b.thread; i < t.num_items; i += kThreads) {
    if (t.item_expert[i] == kNone) continue;
    int first = 0;
#pragma unroll 1
    for (int c = 0; c < b.index; ++c) {
      first += s.sent_counts[c * b.shape.count_row_size() + t.item_expert[i]];
    }
    s.item_first[i] = first;
    start_from(s.warp_count.from(i), num_items);
  }
  if (b.warp == kWarps - 1 && b.lane < kBlocks) {
    s.block_active[b.lane] = s.sent_counts[b.lane * b.shape.count_row_size() + b.shape.num_experts];
  }
  if (own_row == nullptr && b.thread == kThreads - 1) {
    s.tokens[b.source] = sum_of_blocks(b, s, b.shape.num_experts);
  }
  __syncthreads();
}

// This source's own row, once it is counted: into the matrix, and into s.local.
__device__ void write_own_row(const Block& b, const Scratch& s, int32_t* row) {
  if (b.index != 0) return;
  for (int e = b.thread; e < b.shape.num_experts; e += kThreads) row[e] = s.own[e];
  if (b.thread == 0) row[b.shape.num_experts] = s.tokens[b.source];
}

__device__ void fill_own_locals(const Block& b, const Tables& t, const Scratch& s) {
#pragma unroll 1
  for (int i = t.rank_arc_begin[b.source] + b.thread; i < t.rank_arc_begin[b.source + 1];
       i += kThreads) {
    const int a = t.rank_arcs[i];
    const int expert = t.item_expert[t.arc_item[a]];
    s.local[a] = expert == kNone ? b.shape.num_shared_experts * s.tokens[b.source] : s.own[expert];
  }
  __syncthreads();
}

template <typename Id>
__global__ void __launch_bounds__(kThreads, 1)
    count_kernel(const __grid_constant__ Problem problem, const Batch<Id> batch, int32_t* counts) {
  const Scratch& s = problem.memory.scratch;
  const Block b = this_block(problem.shape, batch.first_source);
  if (b.thread == 0) open_mailboxes(b.shape, s);
  begin_to_meet();
  const WarpTokens<Id> tokens(batch, b);
  int expert[kAtOnce];
  tokens.load(tokens.begin * tokens.k, b.shape.num_experts, b.lane, expert);
  clear_counts(b, s);
  __syncthreads();
  count_tokens<false>(b, problem.memory.tables, tokens, expert, s);
  __syncthreads();
  meet();
  send_counts(b, s);
  wait_for(s, kCounts);
  int32_t* row = counts + static_cast<size_t>(b.source) * b.shape.row_size();
  for (int e = b.index * kThreads + b.thread; e < b.shape.row_size(); e += kBlocks * kThreads) {
    row[e] = sum_of_blocks(b, s, e);
  }
}

template <bool kCountFirst, typename Id>
__global__ void __launch_bounds__(kThreads, 1) route_kernel(const __grid_constant__ Problem problem,
                                                            const Batch<Id> batch,
                                                            int32_t* counts,
                                                            const Decision out) {
  const Scratch& s = problem.memory.scratch;
  Tables t = problem.memory.tables;
  const Block b = this_block(problem.shape, batch.first_source);
  if (b.thread == 0) open_mailboxes(b.shape, s);
  begin_to_meet();
  const uint16_t* packed = problem.packed[*problem.active];
  const WarpTokens<Id> tokens(batch, b);
  int expert[kAtOnce];
  tokens.load(tokens.begin * tokens.k, b.shape.num_experts, b.lane, expert);
  const SliceCells slice(b);
  const int cell = slice.load(b, counts, b.thread, !kCountFirst);
  clear_counts(b, s);
  const TableLayout layout(b.shape);
  load_tables(b, packed, layout.shared_size(b.shape), t);
  __syncthreads();
  t.num_items = t.packed[layout.num_items];
  t.num_arcs = t.packed[layout.num_arcs];
  if (b.shape.num_ranks > kMaxResponseRanks) {
    t.far_response = reinterpret_cast<const int32_t*>(packed + layout.response);
  }
  load_locals(b, t, counts, !kCountFirst, s);
  slice.add(b, s, b.thread, cell);
#pragma unroll 1
  for (int i = b.thread + kThreads; i < slice.size * b.shape.num_ranks; i += kThreads) {
    slice.add(b, s, i, slice.load(b, counts, i, !kCountFirst));
  }
  count_tokens<true>(b, t, tokens, expert, s);
  __syncthreads();
  meet();
  send_counts(b, s);
  copy_weights(b, tokens);
  wait_for(s, kCounts);
  int32_t* own_row = counts + static_cast<size_t>(b.source) * b.shape.row_size();
  gather(b, t, kCountFirst ? nullptr : own_row, s);
  if (kCountFirst) {
    write_own_row(b, s, own_row);
    fill_own_locals(b, t, s);
  }
  solve(b, t, s);
  split_items(b, t, s);
  write_decision(b, t, s, out, b.source - batch.first_source);
  assign_tokens(b, t, tokens, s);
}

// What a batch needs of the shared memory of a block.
template <typename Id>
Memory memory_for(const Shape& shape, const Batch<Id>& batch) {
  const int tokens = kWarps * tokens_per_warp(batch.num_tokens);
  return {shape, tokens * batch.k, tokens * shape.num_shared_experts};
}

inline constexpr int kMaxSharedBytes = 227 * 1024;
inline constexpr int64_t kMaxChoicesPerBlock = 65535;  // they are counted in 16 bits

template <typename Id>
Status check(const Shape& shape, const Batch<Id>& batch) {
  if (batch.num_sources < 1 || batch.first_source < 0 ||
      batch.first_source + batch.num_sources > shape.num_ranks || batch.k < 1 ||
      batch.k > kMaxTopK || batch.num_tokens < 0 ||
      (batch.topk_weights == nullptr) != (batch.weights == nullptr)) {
    return invalid_argument(
        "a batch of sources " + std::to_string(batch.first_source) + " to " +
        std::to_string(batch.first_source + batch.num_sources - 1) + ", " +
        std::to_string(batch.num_tokens) + " tokens and top-" + std::to_string(batch.k) +
        ", weights in and out or neither, does not fit " + std::to_string(shape.num_ranks) +
        " ranks and up to top-" + std::to_string(kMaxTopK));
  }
  const int64_t choices = int64_t{kWarps} * tokens_per_warp(batch.num_tokens) * batch.k;
  if (choices <= kMaxChoicesPerBlock && memory_for(shape, batch).num_bytes <= kMaxSharedBytes) {
    return ok_status();
  }
  return unsupported("a source's " + std::to_string(batch.num_tokens) + " tokens, top-" +
                     std::to_string(batch.k) +
                     ", are more than the GPU's shared memory holds; route fewer at once");
}

template <typename... Parameters, typename... Arguments>
Status launch(int num_bytes,
              int num_sources,
              cudaStream_t stream,
              void (*kernel)(Parameters...),
              Arguments... arguments) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(num_sources * kBlocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(num_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return to_status(cudaLaunchKernelEx(&config, kernel, arguments...), "launching a routing kernel");
}

template <bool kCountFirst, typename Id>
Status launch_route(const DevicePlacement& placement,
                    const Batch<Id>& batch,
                    int32_t* counts,
                    const Decision& decision,
                    cudaStream_t stream) {
  if (Status status = check(placement.shape(), batch); !status.ok()) return status;
  const Problem problem{placement.shape(),
                        memory_for(placement.shape(), batch),
                        {placement.tables(0), placement.tables(1)},
                        placement.active()};
  return launch(problem.memory.num_bytes, batch.num_sources, stream, route_kernel<kCountFirst, Id>,
                problem, batch, counts, decision);
}

}  // namespace

// Lets the kernels have all the shared memory there is.
Status prepare_kernels() {
  for (const void* kernel : {reinterpret_cast<const void*>(count_kernel<int32_t>),
                             reinterpret_cast<const void*>(count_kernel<int64_t>),
                             reinterpret_cast<const void*>(route_kernel<false, int32_t>),
                             reinterpret_cast<const void*>(route_kernel<false, int64_t>),
                             reinterpret_cast<const void*>(route_kernel<true, int32_t>),
                             reinterpret_cast<const void*>(route_kernel<true, int64_t>)}) {
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes);
    if (error == cudaSuccess) {  // more than eight blocks a cluster
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    }
    if (error != cudaSuccess) return to_status(error, "preparing the routing kernels");
  }
  return ok_status();
}

template <typename Id>
Status count(const DevicePlacement& placement,
             const Batch<Id>& batch,
             int32_t* counts,
             cudaStream_t stream) {
  if (Status status = check(placement.shape(), batch); !status.ok()) return status;
  const Problem problem{placement.shape(), memory_for(placement.shape(), batch), {}, nullptr};
  return launch(problem.memory.num_bytes, batch.num_sources, stream, count_kernel<Id>, problem,
                batch, counts);
}

template <typename Id>
Status route(const DevicePlacement& placement,
             const Batch<Id>& batch,
             const int32_t* counts,
             const Decision& decision,
             cudaStream_t stream) {
  // Only with kCountFirst is the matrix written to.
  return launch_route<false>(placement, batch, const_cast<int32_t*>(counts), decision, stream);
}

template <typename Id>
Status count_and_route(const DevicePlacement& placement,
                       const Batch<Id>& batch,
                       int32_t* counts,
                       const Decision& decision,
                       cudaStream_t stream) {
  if (batch.num_sources != 1) {
    return invalid_argument("count_and_route serves one source; count and route serve " +
                            std::to_string(batch.num_sources));
  }
  return launch_route<true>(placement, batch, counts, decision, stream);
}

#define PLIMSOLL_INSTANTIATE(Id)                                                                   \
  template Status count(const DevicePlacement&, const Batch<Id>&, int32_t*, cudaStream_t);         \
  template Status route(const DevicePlacement&, const Batch<Id>&, const int32_t*, const Decision&, \
                        cudaStream_t);                                                             \
  template Status count_and_route(const DevicePlacement&, const Batch<Id>&, int32_t*,              \
                                  const Decision&, cudaStream_t);
PLIMSOLL_INSTANTIATE(int32_t)
PLIMSOLL_INSTANTIATE(int64_t)

}  // namespace plimsoll::gpu
