#include "engine/ranks/cpu_compute.h"

#include <string>

namespace plimsoll {

Status check_continues(const SegmentPlan& plan, int64_t num_tokens) {
  if (num_tokens == plan.first_position) return ok_status();
  return invalid_argument(
      "sequence " + std::to_string(plan.sequence_id) + " holds " + std::to_string(num_tokens) +
      " tokens, but the step continues it at position " + std::to_string(plan.first_position));
}

CpuCompute::CpuCompute(const ModelWeights& weights)
    : weights_(weights),
      forward_(weights),
      moe_(weights.config.hidden_size,
           [this](int layer_idx, int logical_expert, std::span<const ExpertRow> rows) {
             compute_expert(layer_idx, logical_expert, rows);
           }) {}

void CpuCompute::drop(std::span<const int64_t> sequence_ids) {
  for (int64_t id : sequence_ids) sequences_.erase(id);
}

Status CpuCompute::take_over(int64_t sequence_id, SequenceState state) {
  sequences_.insert_or_assign(sequence_id, std::move(state));
  return ok_status();
}

Status CpuCompute::begin(std::span<const SegmentPlan> segments) {
  segments_.clear();
  for (const SegmentPlan& segment : segments) {
    const auto [found, is_new] = sequences_.try_emplace(segment.sequence_id);
    SequenceState& sequence = found->second;
    if (is_new) {
      sequence = make_sequence_state(weights_.config);
      sequence.prompt_tokens = segment.prompt_tokens;
      sequence.padding_tokens = segment.padding_tokens;
    }
    if (Status status = check_continues(segment, sequence.num_tokens); !status.ok()) return status;
    segments_.push_back({&sequence, segment.tokens});
  }
  return forward_.begin(segments_);
}

Status CpuCompute::attention(int layer_idx) {
  forward_.attention(layer_idx);
  return ok_status();
}

Result<std::vector<std::byte>> CpuCompute::layer_record(int segment_idx, int layer_idx) {
  std::vector<std::byte> record;
  serialize_layer(weights_.config, *segments_[segment_idx].state, layer_idx, record);
  return record;
}

Result<MoeTokens> CpuCompute::gate(int layer_idx) {
  const GateResult gate = forward_.gate(layer_idx);
  moe_rows_.resize(static_cast<size_t>(gate.num_tokens) * weights_.config.hidden_size);
  return MoeTokens{gate.num_tokens, gate.rows, gate.topk_ids, gate.topk_weights};
}

Status CpuCompute::finish_moe(int layer_idx) {
  forward_.finish_moe(layer_idx, moe_rows_.data());
  return ok_status();
}

Status CpuCompute::logits(std::span<const int32_t> rows, float* out) {
  forward_.logits(rows, out);
  return ok_status();
}

void CpuCompute::compute_expert(int layer_idx,
                                int logical_expert,
                                std::span<const ExpertRow> rows) {
  const LayerWeights& layer = weights_.layers[layer_idx];
  expert_rows(logical_expert == kSharedExpert ? layer.shared_expert : layer.experts[logical_expert],
              weights_.config.swiglu_limit, rows, expert_scratch_);
}

}  // namespace plimsoll
