// The DeepSeek-V4 forward pass of one rank's tokens on a queue, a layer at a time: what
// model/forward/forward.h is on a CPU, with weights packed and states in pages. Everything in
// float32. A token's logits have the same bits however the prompt is cut, whatever else is in the
// batch, and whether it is prefilled or decoded.
//
// Nothing here waits for the GPU but gate() and logits(), which bring what the host needs. Errors
// stick to the queue.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/device/array.h"
#include "cuda/model/hyper_connection.h"
#include "cuda/model/packed_model.h"
#include "cuda/model/sequences.h"
#include "cuda/model/step_view.h"
#include "ep/exchange.h"
#include "model/kernels/top_scores.h"

namespace plimsoll::gpu {

// Tokens appended to one sequence in this step.
struct SequenceTokens {
  Sequence* sequence = nullptr;
  std::span<const int32_t> tokens;
};

// What the router decided, on the host; the rows lie in the queue's place.
struct GateChoice {
  const float* rows = nullptr;   // [num_tokens, hidden_size], the experts' input
  std::span<const int32_t> ids;  // [num_tokens, top_k]
  std::span<const float> weights;
};

class Forward {
 public:
  // Both must outlive it.
  Forward(const PackedModel& model, Queue& queue);

  int num_tokens() const { return num_tokens_; }

  // Fails on a token id outside the vocabulary. The sequences have pages for their new tokens.
  Status begin(std::span<const SequenceTokens> segments, const StateLayout& layout);
  void attention(int layer_idx);
  Result<GateChoice> gate(int layer_idx);
  void finish_moe(const float* moe_out);  // [num_tokens, hidden_size]
  // Logits after the step's tokens `rows` to the host, [rows, vocab_size].
  Status logits(std::span<const int32_t> rows, float* out);
  void end();

 private:
  void place_tokens(std::span<const SequenceTokens> segments);
  void place_pages(std::span<const SequenceTokens> segments);
  void place_closings(std::span<const SequenceTokens> segments);
  const ClosingList& closings_of(int ratio) const;
  void name_work(const std::string& part, int layer_idx);
  float* enter_block(const PackedMix& mix, const float* norm);
  HyperMix collapse(const PackedMix& mix, const float* streams, int num_tokens, float* u);
  void project(const LayerPlace& place, const PackedAttention& weights);
  void compress_tokens(const LayerPlace& place, const PackedAttention& weights);
  void attend_rows(const LayerPlace& place, const PackedAttention& weights);
  void project_output(const LayerPlace& place, const PackedAttention& weights);
  const float* rotation_of(const LayerPlace& place) const;

  const PackedModel& model_;
  const ModelConfig& config_;
  Queue& queue_;
  const StateLayout* layout_ = nullptr;
  std::vector<float> main_frequencies_, compress_frequencies_;

  // The step.
  int num_tokens_ = 0;
  std::vector<SequenceTokens> segments_;
  std::vector<SegmentView> segment_views_;
  int64_t longest_ = 0;  // tokens of the longest sequence, its whole prompt included
  StepView view_;
  std::vector<ClosingList> closing_lists_;
  Array<int32_t> tokens_, segment_of_, page_begin_;
  Array<SegmentView> segment_array_;
  Array<float*> pages_;
  Array<float> main_rotation_, compress_rotation_;
  struct ClosingArrays {
    Array<Closing> closings;
    Array<float> rotation;
  };
  std::vector<ClosingArrays> closing_arrays_;

  Array<float> streams_, mix_, pre_, post_, comb_, rows_, block_output_;
  HyperMix hyper_;  // of the block at hand
  Array<float> query_latent_, query_, kv_, output_, output_latent_;
  Array<float> compress_kv_, compress_score_, entries_;
  Array<float> indexer_query_, indexer_weights_, indexer_scores_;
  Array<ScoredEntry> indexer_scored_;
  Array<int32_t> selected_;
  Array<float> attention_logits_, attention_scale_;
  Array<float> gate_scores_, topk_weights_;
  Array<int32_t> topk_ids_, wanted_;
  Array<float> head_streams_, head_rows_, logits_;
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
};

}  // namespace plimsoll::gpu
