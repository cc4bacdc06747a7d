// What the ranks do in one step, and what comes of it: plain data, so that it can be printed,
// compared and sent to other processes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/schedule/sampling.h"
#include "ep/moe_rank.h"
#include "model/forward/sequence_state.h"

namespace plimsoll {

// Tokens appended to one sequence in this step: a chunk of its prompt, or the token sampled last.
struct SegmentPlan {
  int64_t sequence_id = 0;
  std::vector<int32_t> tokens;
  int64_t first_position = 0;  // of tokens[0]; 0 opens the sequence
  int64_t prompt_tokens = 0;   // of the sequence, this segment's and others'
  int64_t padding_tokens = 0;  // of those, leading ones
  bool is_prompt = false;

  bool sample = false;  // choose the token that follows the last one
  SamplingParams sampling;
  int num_top_logprobs = -1;
  std::vector<int32_t> generated;  // earlier tokens, where penalties need them

  std::vector<int32_t> logits_rows;  // indices into tokens whose logits to return whole
  // Targets[i] follows tokens[i]: return its negative log-likelihood. Empty, or as long as tokens.
  std::vector<int32_t> targets;
  bool return_expert_ids = false;
  bool hand_over = false;  // give each layer's record to the sink as soon as it is complete
};

struct SegmentResult {
  int64_t sequence_id = 0;
  SampledToken next;                     // where `sample` was set
  std::vector<float> logits;             // [logits_rows, vocab]
  std::vector<float> nll;                // [targets]
  std::vector<TokenLogprob> target_top;  // [targets, num_top_logprobs], best first
  std::vector<int32_t> expert_ids;       // [layers, tokens, top_k], logical, in the gate's order
};

// A sequence that another engine has begun. The rank takes the state out.
struct ArrivedSequence {
  int64_t sequence_id = 0;
  std::shared_ptr<SequenceState> state;
};

struct RankPlan {
  std::vector<SegmentPlan> segments;
  std::vector<int64_t> closed;           // sequences whose state to drop before the step
  std::vector<ArrivedSequence> arrived;  // sequences to take over before the step
};

struct StepPlan {
  StepMode mode = StepMode::kNormal;
  bool computes = true;  // false: no step, the ranks only drop what is closed
  std::vector<RankPlan> ranks;
};

// Where a rank's time went in one step.
struct PhaseSeconds {
  double attention = 0;
  double routing = 0;
  double dispatch = 0;
  double experts = 0;
  double combine = 0;
  double other = 0;  // embedding, gate, logits, sampling

  double total() const { return attention + routing + dispatch + experts + combine + other; }
  PhaseSeconds& operator+=(const PhaseSeconds& more);
};

struct RankResult {
  std::vector<SegmentResult> segments;
  PhaseSeconds seconds;
  ExpertTimes expert_times;
  ExchangeTraffic traffic;  // sent to other ranks, all layers together
};

// How level a step was, layer by layer. Loads are (token, expert) pairs that a rank computes.
struct StepBalance {
  int num_ranks = 0;
  int num_layers = 0;
  int64_t num_shared_moved = 0;      // shared-expert tokens computed away from home, all layers
  int64_t num_jit_copies = 0;        // experts copied just in time, all layers
  int64_t jit_saved_load = 0;        // what these took off the layers' fullest ranks
  std::vector<int64_t> routed_load;  // [layers, ranks]
  std::vector<int64_t> total_load;   // [layers, ranks], the shared expert included
  std::vector<int64_t> home_load;    // the same, had every shared expert run at home
  std::vector<int64_t> bound;        // [layers]: no routing of the batch has a smaller maximum load
  std::vector<int32_t> expert_counts;  // [layers, logical experts]: tokens that chose the expert
};

void append_layer(StepBalance& balance,
                  const JitPlan& plan,
                  std::span<const int32_t> expert_counts);

struct StepResult {
  std::vector<RankResult> ranks;
  StepBalance balance;
};

}  // namespace plimsoll
