// A rank on a CPU: a thread's own forward pass over weights that all threads share.
#pragma once

#include <unordered_map>

#include "engine/ranks/rank_compute.h"
#include "model/forward/experts.h"
#include "model/forward/forward.h"

namespace plimsoll {

class CpuCompute final : public RankCompute {
 public:
  explicit CpuCompute(const ModelWeights& weights);  // which must outlive it

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

  bool reaches_all_rows() const override { return moe_.reaches_all_rows(); }
  Status compute_experts(int layer_idx,
                         std::span<const int32_t> slots,
                         const ExpertWork& work) override {
    return moe_.compute_experts(layer_idx, slots, work);
  }
  Status sum_results(std::span<const float* const> results,
                     int num_tokens,
                     const float* last,
                     float* out) override {
    return moe_.sum_results(results, num_tokens, last, out);
  }
  float* shared_rows(size_t num_rows) override { return moe_.shared_rows(num_rows); }
  float* result_rows(size_t num_rows) override { return moe_.result_rows(num_rows); }

 private:
  void compute_expert(int layer_idx, int logical_expert, std::span<const ExpertRow> rows);

  const ModelWeights& weights_;
  RankForward forward_;
  HostMoeCompute moe_;
  std::unordered_map<int64_t, SequenceState> sequences_;
  std::vector<Segment> segments_;
  std::vector<float> moe_rows_;
  ExpertScratch expert_scratch_;
};

}  // namespace plimsoll
