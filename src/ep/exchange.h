// Dispatch and combine: tokens travel to the ranks that hold their experts, results travel home.
//
// Both modes of DeepEP, with the same face (see exchange_normal.h and exchange_low_latency.h):
//   dispatch(input)        packs, and sends the tokens on their way
//   receive(work)          waits for those of all ranks, and lists the rows that arrived, by local
//                          expert slot; what the rank computes in between costs no time while they
//                          travel
//   combine(results)       sends every output row back and tells where each token's rows now lie
// In both a row's place depends only on the source rank and the token's index, never on timing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"

namespace plimsoll {

// Where one (token, column) goes. Columns are the top-k choices, then the shared expert if it is
// routed.
struct Target {
  int32_t rank = -1;  // -1: nowhere (an inactive token)
  int32_t slot =
      -1;  // expert slot within that rank; the slot after the last routed one is the shared expert
};

// The tokens one rank sends into an MoE layer.
struct DispatchInput {
  int num_tokens = 0;
  int num_columns = 0;
  int hidden_size = 0;
  const float* rows = nullptr;      // [num_tokens, hidden_size]
  std::span<const float> weights;   // [num_tokens, num_columns]
  std::span<const Target> targets;  // [num_tokens, num_columns]
  float* results = nullptr;  // [num_tokens, num_columns, hidden_size], in-place exchange only
};

// One row for an expert to compute: out = weight-scaled expert(row), both of hidden_size floats.
struct ExpertRow {
  const float* row = nullptr;
  float weight = 0;
  float* out = nullptr;
};

// What arrived at a rank: rows[first[s] .. first[s + 1]) belong to its expert slot s, ordered by
// source rank, then by the order in which the source sent them.
struct ExpertWork {
  std::vector<int32_t> first;  // [num_slots + 1]
  std::vector<ExpertRow> rows;
};

// What one dispatch and combine of a rank sent to other ranks.
struct ExchangeTraffic {
  int64_t num_messages = 0;  // rows dispatched to other ranks
  int64_t num_bytes = 0;     // both ways
};

}  // namespace plimsoll
