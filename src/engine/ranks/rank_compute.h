// What a rank computes its sequences' tokens with: the one seam between the engine and a device.
// Scheduler, recorder, rebalancer, routing and sampling lie on the engine's side and know no
// device; weights, sequence states and rows lie on the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/schedule/step.h"
#include "ep/moe_compute.h"
#include "ep/moe_rank.h"
#include "plimsoll/result.h"

namespace plimsoll {

// Order of calls for a step: begin; for every layer attention, gate, (the MoE layer, through
// MoeCompute), finish_moe; logits as often as wanted; end.
class RankCompute : public MoeCompute {
 public:
  virtual size_t num_sequences() const = 0;
  virtual void drop(std::span<const int64_t> sequence_ids) = 0;
  virtual Status take_over(int64_t sequence_id, SequenceState state) = 0;

  // Opens sequences that are new. Fails on a token id outside the vocabulary, and where a sequence
  // does not end where its segment begins.
  virtual Status begin(std::span<const SegmentPlan> segments) = 0;
  virtual Status attention(int layer_idx) = 0;
  // A layer's record (model/forward/sequence_state.h) of the step's segment, after its attention.
  virtual Result<std::vector<std::byte>> layer_record(int segment_idx, int layer_idx) = 0;
  // The choices lie on the host, valid until the next call.
  virtual Result<MoeTokens> gate(int layer_idx) = 0;
  virtual float* moe_rows() = 0;  // [tokens, hidden_size], for what the MoE layer sums
  virtual Status finish_moe(int layer_idx) = 0;
  // Logits after the given tokens (indices into the step's) to out [rows, vocab_size], on the host.
  virtual Status logits(std::span<const int32_t> rows, float* out) = 0;
  virtual void end() = 0;
};

// Of `plan`, where a rank's state of the sequence holds `num_tokens`.
Status check_continues(const SegmentPlan& plan, int64_t num_tokens);

}  // namespace plimsoll
