#include "engine/ranks/gpu_compute.h"

#include <algorithm>
#include <string>

#include "cuda/model/rows.h"

namespace plimsoll {

GpuCompute::GpuCompute(const gpu::PackedModel& model)
    : model_(model),
      hidden_size_(model.config.hidden_size),
      queue_(model.place),
      sequences_(model.config, queue_),
      forward_(model, queue_) {}

void GpuCompute::drop(std::span<const int64_t> sequence_ids) {
  for (int64_t id : sequence_ids) sequences_.drop(id);
}

Status GpuCompute::take_over(int64_t sequence_id, SequenceState state) {
  queue_.set_context("taking over sequence " + std::to_string(sequence_id));
  return sequences_.take_over(sequence_id, state);
}

Status GpuCompute::begin(std::span<const SegmentPlan> segments) {
  queue_.set_context("making room for " + std::to_string(segments.size()) + " sequences");
  segments_.clear();
  segment_ids_.clear();
  for (const SegmentPlan& segment : segments) {
    gpu::Sequence& sequence =
        sequences_.open(segment.sequence_id, segment.prompt_tokens, segment.padding_tokens);
    if (Status status = check_continues(segment, sequence.num_tokens); !status.ok()) return status;
    sequences_.grow(sequence, sequence.num_tokens + static_cast<int64_t>(segment.tokens.size()));
    segments_.push_back({&sequence, segment.tokens});
    segment_ids_.push_back(segment.sequence_id);
  }
  if (queue_.failed()) return queue_.wait();
  return forward_.begin(segments_, sequences_.layout());
}

Status GpuCompute::attention(int layer_idx) {
  forward_.attention(layer_idx);
  return queue_.failed() ? queue_.wait() : ok_status();
}

Result<std::vector<std::byte>> GpuCompute::layer_record(int segment_idx, int layer_idx) {
  const gpu::SequenceTokens& segment = segments_[segment_idx];
  SequenceState state = make_sequence_state(model_.config);
  const Status read = sequences_.read_layer(
      segment_ids_[segment_idx], layer_idx,
      segment.sequence->num_tokens + static_cast<int64_t>(segment.tokens.size()), state);
  if (!read.ok()) return read.error();
  std::vector<std::byte> record;
  serialize_layer(model_.config, state, layer_idx, record);
  return record;
}

Result<MoeTokens> GpuCompute::gate(int layer_idx) {
  const Result<gpu::GateChoice> choice = forward_.gate(layer_idx);
  if (!choice.ok()) return choice.error();
  rows_of(moe_rows_, forward_.num_tokens());
  return MoeTokens{forward_.num_tokens(), choice->rows, choice->ids.data(), choice->weights.data()};
}

Status GpuCompute::compute_experts(int layer_idx,
                                   std::span<const int32_t> slots,
                                   const ExpertWork& work) {
  const gpu::PackedLayer& layer = model_.layers[layer_idx];
  const size_t num_rows = work.rows.size();
  queue_.set_context("layer " + std::to_string(layer_idx) + ", experts of " +
                     std::to_string(num_rows) + " rows");
  tiles_.clear();
  for (size_t s = 0; s < slots.size(); ++s) {
    const gpu::PackedExpert& expert =
        slots[s] == kSharedExpert ? layer.shared_expert : layer.experts[slots[s]];
    for (int32_t row = work.first[s]; row < work.first[s + 1]; row += gpu::kTileRows) {
      tiles_.push_back({expert, row, std::min(gpu::kTileRows, work.first[s + 1] - row)});
    }
  }
  const int intermediate = model_.config.moe_intermediate_size;
  gpu::expert_tiles(queue_, {.tiles = tile_array_.upload(queue_, tiles_),
                             .num_tiles = static_cast<int>(tiles_.size()),
                             .rows = row_array_.upload(queue_, work.rows),
                             .hidden_size = hidden_size_,
                             .intermediate = intermediate,
                             .limit = model_.config.swiglu_limit,
                             .scratch = expert_scratch_.at_least(queue_, num_rows * intermediate)});
  return queue_.wait();
}

Status GpuCompute::sum_results(std::span<const float* const> results,
                               int num_tokens,
                               const float* last,
                               float* out) {
  if (num_tokens == 0) return ok_status();
  const std::vector<const float*> columns(results.begin(), results.end());
  gpu::sum_results(queue_, results_.upload(queue_, columns), num_tokens,
                   static_cast<int>(results.size()) / num_tokens, hidden_size_, last, out);
  return queue_.failed() ? queue_.wait() : ok_status();
}

Status GpuCompute::finish_moe(int) {
  forward_.finish_moe(moe_rows_.data());
  return queue_.failed() ? queue_.wait() : ok_status();
}

Status GpuCompute::logits(std::span<const int32_t> rows, float* out) {
  return forward_.logits(rows, out);
}

float* GpuCompute::shared_rows(size_t num_rows) {
  return rows_of(shared_rows_, num_rows);
}

float* GpuCompute::result_rows(size_t num_rows) {
  return rows_of(result_rows_, num_rows);
}

float* GpuCompute::rows_of(gpu::Array<float>& array, size_t num_rows) {
  return array.at_least(queue_, num_rows * static_cast<size_t>(hidden_size_));
}

}  // namespace plimsoll
