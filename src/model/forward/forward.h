// The DeepSeek-V4 forward pass of one rank's tokens, a layer at a time, so that all ranks can meet
// between `gate` and `finish_moe` to compute the experts together.
//
// Order of calls for a step: begin; for every layer attention, gate, (the MoE layer), finish_moe;
// logits as often as wanted; end. A token's logits have the same bits however the prompt is cut
// into chunks, whatever else is in the batch, and whether it is prefilled or decoded.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "model/forward/sequence_state.h"
#include "model/forward/weights.h"
#include "model/kernels/kernels.h"
#include "plimsoll/result.h"

namespace plimsoll {

// Tokens appended to one sequence in this step: a chunk of its prompt or the one token just
// sampled.
struct Segment {
  SequenceState* state = nullptr;
  std::span<const int32_t> tokens;
};

// What the router decided for the step's tokens. Points into the RankForward; valid until its next
// call.
struct GateResult {
  int num_tokens = 0;
  const float* rows = nullptr;        // [num_tokens, hidden_size], the experts' input
  const int32_t* topk_ids = nullptr;  // [num_tokens, top_k], best first; hash layers in table order
  const float* topk_weights = nullptr;  // [num_tokens, top_k], the factor of each expert's output
};

struct ForwardWorkspace;

// One rank's workspace. Holds buffers for the largest step seen and allocates no more after that
// (sequence states grow on their own). `weights` must outlive it.
class RankForward {
 public:
  explicit RankForward(const ModelWeights& weights, const Kernels& kernels = plimsoll::kernels());
  ~RankForward();
  RankForward(RankForward&&) noexcept;

  // A rank without tokens passes no segments and may still make all other calls. A sequence may
  // stand in one segment only. Fails on a token id outside the vocabulary, with nothing changed.
  Status begin(std::span<const Segment> segments);
  void attention(int layer_idx);
  GateResult gate(int layer_idx);
  void finish_moe(int layer_idx, const float* moe_out);  // [num_tokens, hidden_size]
  // Logits after the given tokens (indices into the step's tokens) to out [rows, vocab_size].
  void logits(std::span<const int32_t> rows, float* out);
  void end();

 private:
  std::unique_ptr<ForwardWorkspace> workspace_;
};

}  // namespace plimsoll
