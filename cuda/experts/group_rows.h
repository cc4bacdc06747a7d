// The layer around the grouped products: tokens' rows are put in the order of the slots that they
// chose, quantised for the product, and the results summed at home. Nothing waits on the host and
// nothing is allocated: all of it can be captured.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cuda/experts/grouped_gemm.h"

namespace plimsoll::gpu {

inline constexpr int kMaxSlots = 1024;

// What the routing decided, in device memory.
struct RoutedTokens {
  int tokens = 0;
  int top_k = 0;
  int hidden = 0;
  const __nv_bfloat16* x = nullptr;  // [tokens, hidden]
  const int* slots = nullptr;        // [tokens, top_k]: of this launch's slots; negative: elsewhere
  const float* weights = nullptr;    // [tokens, top_k]
};

// Sizes of a layer's buffers: the most tokens that a batch may have.
struct GroupSizes {
  Activation activation = Activation::kFp16;
  WeightFormat format = WeightFormat::kFp4;
  int max_tokens = 0;
  int top_k = 0;
  int num_slots = 0;  // kMaxSlots at most
  int hidden = 0;
  int intermediate = 0;
};

// Parts of one piece of device memory.
struct GroupBuffers {
  GroupSizes sizes;
  int capacity = 0;
  int* offsets = nullptr;  // [num_slots]: a slot's first row
  int* ranks = nullptr;    // [max_tokens · top_k]: a choice's number among those of its slot
  RowTile* tiles = nullptr;
  int* num_tiles = nullptr;
  float* weights = nullptr;
  int* homes = nullptr;
  ActivationRows x;
  ActivationRows h;
  size_t bytes = 0;
};

// Rows that a batch can take: a slot's rows begin at a multiple of 8.
constexpr int row_capacity(int tokens, int top_k, int num_slots) {
  const int choices = tokens * top_k;
  return (choices + 7 * (num_slots < choices ? num_slots : choices) + 7) / 8 * 8;
}

// Lays the buffers out from `base`; with base null, only the sizes are meant.
GroupBuffers group_buffers(const GroupSizes& sizes, void* base);

GroupedRows grouped_rows(const GroupBuffers& buffers);

// Counts, numbers and copies rows; result row of choice c of token t is t · top_k + c.
// cudaErrorInvalidValue, and nothing written, for more tokens than max_tokens.
cudaError_t group_rows(const RoutedTokens& tokens,
                       const GroupBuffers& buffers,
                       cudaStream_t stream);

// out [tokens, hidden] = y of the choices in their order, those elsewhere left out, then `shared`
// (null: none), all float32.
cudaError_t sum_choices(const RoutedTokens& tokens,
                        const float* y,
                        const float* shared,
                        float* out,
                        cudaStream_t stream);

}  // namespace plimsoll::gpu
