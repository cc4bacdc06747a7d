// The published expert placement algorithms, with their answers reproduced exactly, ties included.
//
// deepseek: DeepSeek's EPLB (github.com/deepseek-ai/EPLB): copies go one by one to the expert with
// the largest load per copy; copies, heaviest first, go to the emptiest rank with a free slot.
// Hierarchical: expert groups are first dealt out to nodes the same way, and the rest happens
// within nodes. deepseek_vec: SGLang's variant that keeps the recorded steps apart, chooses each
// copy so that the sum over steps of the fullest copy falls most, and deals copies out in snake
// order. elasticity_aware: SGLang's deepseek over the ranks that are alive; dead ranks' slots name
// expert 0.
//
// The reference computes in float32; so do these, and deepseek_vec adds the steps in torch's order,
// that of processors with vectors of 8 floats. Counts that add up to more than 2^24 are not exact
// in float32, and how the reference then rounds is up to its machine; here it is rounded once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

struct EplbSizes {
  int num_layers = 0;
  int num_logical_experts = 0;
  int num_physical_experts = 0;  // a multiple of num_ranks
  int num_ranks = 0;
  int num_nodes = 1;   // divides num_ranks
  int num_groups = 1;  // expert groups, divide the experts; hierarchical: a multiple of num_nodes
};

struct EplbAnswer {
  std::vector<int32_t> physical_to_logical;  // [layers, physical]
  std::vector<int32_t> replica_index;        // [layers, physical], which copy of its expert, from 0
  std::vector<int32_t> logical_count;        // [layers, logical], copies of each expert
};

// load: [layers, logical], finite and not negative.
Result<EplbAnswer> eplb_deepseek(const EplbSizes& sizes,
                                 std::span<const float> load,
                                 bool hierarchical);

// active_ranks: [num_ranks], 0 for dead ones. With a dead rank the answer is the global one over
// the others; replica_index and logical_count then leave the dead ranks' slots out (-1).
Result<EplbAnswer> eplb_elasticity_aware(const EplbSizes& sizes,
                                         std::span<const float> load,
                                         std::span<const uint8_t> active_ranks,
                                         bool hierarchical);

// steps: [num_steps, layers, logical], not negative. Nodes must divide the logical and the
// redundant experts when hierarchical.
Result<EplbAnswer> eplb_deepseek_vec(const EplbSizes& sizes,
                                     std::span<const int64_t> steps,
                                     bool hierarchical);

}  // namespace plimsoll
