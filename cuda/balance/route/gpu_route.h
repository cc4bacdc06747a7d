// Routing a batch on a CUDA GPU: route() and assign() of plimsoll/route.h, the same integers, fast
// enough to stand inside a CUDA graph between the gate and the dispatch.
//
//   set-up, per layer:            DevicePlacement
//   per batch, ranks apart:       count, CountExchange::all_gather, route
//   per batch, other counts here: count_and_route, one launch
//
// Every function only enqueues work on a stream: nothing waits, nothing is allocated, all of it can
// be captured. One cluster of thread blocks does the work of one source rank; several sources on
// one GPU (ranks of one process, tests) are several clusters of the same launch. Every cluster
// solves the whole problem for itself, as every rank does.
//
// The exact algorithm for tokens, on ranks alike, with a shared expert of cost 1 is all there is
// here: everything else stays on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/balance/route/device_placement.h"
#include "plimsoll/result.h"

namespace plimsoll::gpu {

// Tokens of `num_sources` consecutive source ranks, from `first_source` on. All pointers are device
// pointers. Id: int32_t or int64_t.
template <typename Id>
struct Batch {
  int first_source = 0;
  int num_sources = 1;
  int num_tokens = 0;  // of each source; shorter ones are padded with inactive tokens
  int k = 1;
  // [num_sources, num_tokens, k], logical; -1 (and anything that is no expert): none. A token
  // without any expert is inactive.
  const Id* topk_ids = nullptr;
  const float* topk_weights = nullptr;  // [num_sources, num_tokens, k], or null
  // [num_sources, num_tokens, k + num_shared_experts], out: the slot serving each choice, -1 for
  // none; then num_slots + rank for each shared expert, -1 if the token is inactive.
  Id* physical_ids = nullptr;
  float* weights = nullptr;    // as physical_ids, out; or null
  float shared_weight = 1.0f;  // what the shared experts of active tokens get; inactive ones get 0
};

// What the solver decided, for those who want to see it; null pointers are skipped.
struct Decision {
  int32_t* routed = nullptr;  // [num_sources, num_slots], x: tokens of a source served by a slot
  int32_t* shared = nullptr;  // [num_sources, num_ranks], y
  int32_t* bound = nullptr;   // [num_sources], the maximum rank load (each source finds the same)
};

// counts: [num_ranks, shape.row_size()], a row per source: how often it chose each expert, then its
// active tokens. Writes the rows of the batch's sources.
template <typename Id>
Status count(const DevicePlacement& placement,
             const Batch<Id>& batch,
             int32_t* counts,
             cudaStream_t stream);

// From the counts of all sources to the physical ids of the batch. The rows of the batch's sources
// must be what count() writes for it. physical_ids may be null with num_tokens 0: then only the
// decision is made.
template <typename Id>
Status route(const DevicePlacement& placement,
             const Batch<Id>& batch,
             const int32_t* counts,
             const Decision& decision,
             cudaStream_t stream);

// count and route in one launch, for one source; the other rows of `counts` are there already. Its
// own row is written too.
template <typename Id>
Status count_and_route(const DevicePlacement& placement,
                       const Batch<Id>& batch,
                       int32_t* counts,
                       const Decision& decision,
                       cudaStream_t stream);

}  // namespace plimsoll::gpu
