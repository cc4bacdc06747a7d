// A rank on a GPU: a stream, sequences and buffers of its own; weights that all ranks of the GPU
// share. Rows of other ranks are read and written where they lie.
#pragma once

#include "cuda/model/forward.h"
#include "engine/ranks/rank_compute.h"

namespace plimsoll {

class GpuCompute final : public RankCompute {
 public:
  explicit GpuCompute(const gpu::PackedModel& model);  // which must outlive it

  size_t num_sequences() const override { return sequences_.size(); }
  void drop(std::span<const int64_t> sequence_ids) override;
  Status take_over(int64_t sequence_id, SequenceState state) override;
  Status begin(std::span<const SegmentPlan> segments) override;
  Status attention(int layer_idx) override;
  Result<std::vector<std::byte>> layer_record(int segment_idx, int layer_idx) override;
  Result<MoeTokens> gate(int layer_idx) override;
  float* moe_rows() override { return moe_rows_.data(); }
  Status finish_moe(int layer_idx) override;
  Status logits(std::span<const int32_t> rows, float* out) override;
  void end() override { forward_.end(); }

  bool reaches_all_rows() const override { return true; }
  Status compute_experts(int layer_idx,
                         std::span<const int32_t> slots,
                         const ExpertWork& work) override;
  Status sum_results(std::span<const float* const> results,
                     int num_tokens,
                     const float* last,
                     float* out) override;
  float* shared_rows(size_t num_rows) override;
  float* result_rows(size_t num_rows) override;

 private:
  float* rows_of(gpu::Array<float>& array, size_t num_rows);

  const gpu::PackedModel& model_;
  const int hidden_size_;
  gpu::Queue queue_;
  gpu::Sequences sequences_;
  gpu::Forward forward_;
  std::vector<gpu::SequenceTokens> segments_;
  std::vector<int64_t> segment_ids_;
  gpu::Array<float> moe_rows_, shared_rows_, result_rows_;
  gpu::Array<const float*> results_;
  // Of the experts at work.
  std::vector<gpu::ExpertTile> tiles_;
  gpu::Array<gpu::ExpertTile> tile_array_;
  gpu::Array<ExpertRow> row_array_;
  gpu::Array<float> expert_scratch_;
};

}  // namespace plimsoll
