// The kernels: count, and route with or without counting its own source first. A cluster of blocks
// does one source rank's work; its blocks share the tokens and the columns of the count matrix, and
// each solves for itself, which is quicker than waiting for another's answer. See "On a GPU" in
// docs/balancing.md.
#include <climits>

#include "cuda/balance/route/assign.cuh"
#include "cuda/balance/route/quotas.cuh"
#include "cuda/balance/route/solve.cuh"

namespace plimsoll::gpu {
namespace {

struct Problem {
  Shape shape;
  Memory memory;
  Divisor per_token, per_shared;  // choices, and shared experts, of a token
  Divisor per_rank, per_round;    // slots of a rank, and ranks
  Divisor per_slice;
  const uint16_t* packed[2] = {};   // null for counting alone
  const uint8_t* active = nullptr;  // which of the two holds

  template <typename Id>
  Problem(const Shape& of, const Batch<Id>& batch)
      : shape(of),
        memory(of, kWarps * tokens_per_warp(batch.num_tokens), batch.k),
        per_token(batch.k),
        per_shared(of.num_shared_experts),
        per_rank(of.slots_per_rank()),
        per_round(of.num_ranks),
        per_slice(of.slice_size()) {}
};

__device__ Block this_block(const Shape& shape, int first_source) {
  const int block = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  // Read from a lane, so that the compiler knows it to be the same for all of a warp.
  const int warp = __shfl_sync(kFullWarp, thread / 32, 0);
  return {shape, first_source + block / kBlocks, block % kBlocks, thread, warp, thread % 32};
}

__device__ void load_tables(const Block& b, const uint16_t* packed, int size, const Tables& t) {
  const uint4* from = reinterpret_cast<const uint4*>(packed);
  for (int i = b.thread; i < size / 8; i += kThreads) {
    reinterpret_cast<uint4*>(&t.packed[0])[i] = from[i];
  }
}

// What a rank has of active tokens, then what each rank that holds a copy of an item asks of it; as
// far as the matrix tells. This source's are known to be 0 until they are counted.
struct Asked {
  const int32_t* counts;
  bool has_own_row;

  __device__ static int number(const Block& b, const Tables& t) {
    return b.shape.num_ranks + t.num_arcs;
  }
  __device__ int load(const Block& b, const Tables& t, int i) const {
    if (i >= number(b, t)) return 0;
    const int arc = i - b.shape.num_ranks;
    const int r = arc < 0 ? i : t.arc_rank[arc];
    const int expert = arc < 0 ? kNone : t.item_expert[t.arc_item[arc]];
    if (r == b.source && !has_own_row) return 0;
    const int column = expert == kNone ? b.shape.num_experts : expert;
    return counts[static_cast<size_t>(r) * b.shape.row_size() + column];
  }
  __device__ void store(const Block& b, const Tables& t, const Scratch& s, int i, int units) const {
    if (i >= number(b, t)) return;
    const int arc = i - b.shape.num_ranks;
    const bool is_shared = arc >= 0 && arc < first_routed_arc(b);
    if (arc < 0) {
      s.tokens[i] = units;
    } else {
      s.local[arc] = is_shared ? b.shape.num_shared_experts * units : units;
    }
  }
};

template <typename Id>
__global__ void __launch_bounds__(kThreads, 1)
    count_kernel(const __grid_constant__ Problem problem, const Batch<Id> batch, int32_t* counts) {
  const Scratch& s = problem.memory.scratch;
  const Block b = this_block(problem.shape, batch.first_source);
  let_next_begin();
  if (b.thread == 0) open_mailboxes(b.shape, s);
  begin_to_meet();
  clear(b, problem.memory);
  wait_for_previous();
  const WarpTokens<Id> tokens(batch, problem.per_token, b);
  Id id[kAtOnce];
  tokens.load(tokens.begin * tokens.k, b.lane, id);
  __syncthreads();
  count_tokens<Size::kPlain, false>(b, problem.memory.tables, tokens, id, s);
  __syncthreads();
  meet();
  send_counts(b, s);
  wait_for(s, kCounts);
  int32_t* row = counts + static_cast<size_t>(b.source) * b.shape.row_size();
  const int size = b.shape.slice_size();
  for (int c = b.thread; c < size && b.index * size + c < b.shape.num_experts; c += kThreads) {
    row[b.index * size + c] = sum_of_blocks(b, s, c, 0).all;
  }
  if (b.index == 0 && b.warp == kWarps - 1) {
    const int active = sum_active(b, s);
    if (b.lane == 0) row[b.shape.num_experts] = active;
  }
}

template <Size kSize, bool kCountFirst, typename Id>
__global__ void __launch_bounds__(kThreads, 1) route_kernel(const __grid_constant__ Problem problem,
                                                            const Batch<Id> batch,
                                                            int32_t* counts,
                                                            const Decision out) {
  const Scratch& s = problem.memory.scratch;
  Tables t = problem.memory.tables;
  const Block b = this_block(problem.shape, batch.first_source);
  const int active = *problem.active;
  let_next_begin();
  if (b.thread == 0) open_mailboxes(b.shape, s);
  begin_to_meet();
  clear(b, problem.memory);
  const TableLayout layout(b.shape);
  const uint16_t* packed = problem.packed[active];
  load_tables(b, packed, layout.shared_size(b.shape), t);
  __syncthreads();
  t.num_items = t.packed[layout.num_items];
  t.num_arcs = t.packed[layout.num_arcs];
  if (b.shape.num_ranks > kMaxResponseRanks) {
    t.far_response = reinterpret_cast<const int32_t*>(packed + layout.response);
  }
  wait_for_previous();
  const WarpTokens<Id> tokens(batch, problem.per_token, b);
  Id id[kAtOnce];
  float weight[kAtOnce];
  tokens.load(tokens.begin * tokens.k, b.lane, id);
  tokens.load_weights(tokens.begin * tokens.k, b.lane, weight);
  const SliceCells slice(b, problem.per_slice, !kCountFirst);
  int cell[SliceCells::kFirst];
  slice.load_first(b, counts, cell);
  const Asked asked{counts, !kCountFirst};
  const int units = asked.load(b, t, b.thread);
  slice.add_all(b, counts, cell, s);
  count_tokens<kSize, true>(b, t, tokens, id, s);
  asked.store(b, t, s, b.thread, units);
#pragma unroll 1
  for (int i = b.thread + kThreads; i < asked.number(b, t); i += kThreads) {
    asked.store(b, t, s, i, asked.load(b, t, i));
  }
  __syncthreads();
  meet();
  send_counts(b, s);
  for (int i = b.thread; i < t.num_items; i += kThreads) {
    start_from(s.warp_count.from(i), b.shape.max_items());
  }
  wait_for(s, kCounts);
  int32_t* own_row = counts + static_cast<size_t>(b.source) * b.shape.row_size();
  send_columns(b, s, kCountFirst ? own_row : nullptr);
  if (b.warp == kWarps - 1) {
    const int num_active = sum_active(b, s);
    if (kCountFirst && b.lane == 0) {
      s.tokens[b.source] = num_active;
      if (b.index == 0) own_row[b.shape.num_experts] = num_active;
    }
  }
  tokens.copy_weights(b.lane, weight);
  wait_for(s, kColumns);
  __syncthreads();
  solve<kSize>(b, t, s, problem.per_round);
  split_items(b, t, s);
  write_decision(b, t, s, out, b.source - batch.first_source);
  assign_tokens<kSize>(b, t, tokens, problem.per_rank, problem.per_shared, s);
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
  if (choices <= kMaxChoicesPerBlock && Problem(shape, batch).memory.num_bytes <= kMaxSharedBytes) {
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
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kBlocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(num_sources * kBlocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(num_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return to_status(cudaLaunchKernelEx(&config, kernel, arguments...), "launching a routing kernel");
}

template <bool kCountFirst, typename Id>
auto route_kernel_of(Size size) {
  switch (size) {
    case Size::kPlain:
      return route_kernel<Size::kPlain, kCountFirst, Id>;
    case Size::kSmall:
      return route_kernel<Size::kSmall, kCountFirst, Id>;
    case Size::kMedium:
      return route_kernel<Size::kMedium, kCountFirst, Id>;
    case Size::kLarge:
      break;
  }
  return route_kernel<Size::kLarge, kCountFirst, Id>;
}

template <bool kCountFirst, typename Id>
Status launch_route(const DevicePlacement& placement,
                    const Batch<Id>& batch,
                    int32_t* counts,
                    const Decision& decision,
                    cudaStream_t stream) {
  if (Status status = check(placement.shape(), batch); !status.ok()) return status;
  Problem problem(placement.shape(), batch);
  for (int i = 0; i < 2; ++i) problem.packed[i] = placement.tables(i);
  problem.active = placement.active();
  return launch(problem.memory.num_bytes, batch.num_sources, stream,
                route_kernel_of<kCountFirst, Id>(placement.shape().size()), problem, batch, counts,
                decision);
}

}  // namespace

// Lets the kernels for problems of a size have all the shared memory there is.
Status prepare_kernels(Size size) {
  for (const void* kernel : {reinterpret_cast<const void*>(count_kernel<int32_t>),
                             reinterpret_cast<const void*>(count_kernel<int64_t>),
                             reinterpret_cast<const void*>(route_kernel_of<false, int32_t>(size)),
                             reinterpret_cast<const void*>(route_kernel_of<false, int64_t>(size)),
                             reinterpret_cast<const void*>(route_kernel_of<true, int32_t>(size)),
                             reinterpret_cast<const void*>(route_kernel_of<true, int64_t>(size))}) {
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
  const Problem problem(placement.shape(), batch);
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
