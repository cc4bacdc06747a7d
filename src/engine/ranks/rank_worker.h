// One rank's part of a step: its sequences through every layer, its experts for everybody.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/ranks/rank_compute.h"
#include "engine/schedule/step.h"
#include "ep/moe_rank.h"
#include "model/checkpoint/config.h"
#include "record/recorder.h"

namespace plimsoll {

// Takes a layer's record (see model/forward/sequence_state.h) of a sequence to hand over, on a
// rank's thread and before the step's later layers are computed. Must return soon.
using LayerSink =
    std::function<void(int64_t sequence_id, int layer_idx, std::vector<std::byte> record)>;

class RankWorker {
 public:
  // All references must outlive the worker; `recorder` may be null.
  RankWorker(const ModelConfig& config,
             std::unique_ptr<RankCompute> compute,
             Communicator& comm,
             const MoeLayout& layout,
             const MoeOptions& options,
             RankRecorder* recorder);

  // Collective: every rank runs its part of the same step. `balance` is filled where it is not
  // null.
  Status run(const RankPlan& plan, StepMode mode, RankResult& result, StepBalance* balance);

  // Forgets sequences; no part of a step, so other ranks need not take part.
  void drop(std::span<const int64_t> sequence_ids) { compute_->drop(sequence_ids); }
  size_t num_sequences() const { return compute_->num_sequences(); }

  void set_layer_sink(LayerSink sink) { layer_sink_ = std::move(sink); }

 private:
  Status open_segments(const RankPlan& plan);
  void begin_recording(const RankPlan& plan);
  Status hand_over_layer(int layer_idx, const RankPlan& plan);
  Status run_layer(int layer_idx, const RankPlan& plan, StepMode mode, RankResult& result);
  void list_wanted_rows(const RankPlan& plan);
  Status finish_segments(const RankPlan& plan, RankResult& result);
  void use_logits(const SegmentPlan& plan,
                  int token_idx,
                  std::span<float> logits,
                  SegmentResult& result);

  const ModelConfig& config_;
  RankRecorder* recorder_;
  const std::unique_ptr<RankCompute> compute_;
  MoeRank moe_;
  LayerSink layer_sink_;
  // A row whose logits somebody wants: its place in the step, and in its segment.
  struct WantedRow {
    int32_t row;
    int segment;
    int token_idx;
  };
  std::vector<WantedRow> wanted_;
  std::vector<float> logits_;
  PhaseSeconds seconds_;
  std::vector<int32_t> input_ids_, positions_, prompt_lens_;  // of the step, for the recorder
};

}  // namespace plimsoll
