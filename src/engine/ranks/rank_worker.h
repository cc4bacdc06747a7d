// One rank's part of a step: its sequences through every layer, its experts for everybody.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/schedule/step.h"
#include "ep/moe_rank.h"
#include "model/forward/forward.h"
#include "record/recorder.h"

namespace plimsoll {

// Takes a layer's record (see model/sequence_state.h) of a sequence to hand over, on a rank's
// thread and before the step's later layers are computed. Must return soon.
using LayerSink =
    std::function<void(int64_t sequence_id, int layer_idx, std::vector<std::byte> record)>;

class RankWorker {
 public:
  // All references must outlive the worker; `recorder` may be null.
  RankWorker(const ModelWeights& weights,
             Communicator& comm,
             const MoeLayout& layout,
             const MoeOptions& options,
             RankRecorder* recorder);

  // Collective: every rank runs its part of the same step. `balance` is filled where it is not
  // null.
  Status run(const RankPlan& plan, StepMode mode, RankResult& result, StepBalance* balance);

  // Forgets sequences; no part of a step, so other ranks need not take part.
  void drop(std::span<const int64_t> sequence_ids);
  size_t num_sequences() const { return sequences_.size(); }

  void set_layer_sink(LayerSink sink) { layer_sink_ = std::move(sink); }

 private:
  Status open_segments(const RankPlan& plan);
  void begin_recording(const RankPlan& plan);
  void hand_over_layer(int layer_idx, const RankPlan& plan);
  Status run_layer(int layer_idx, const RankPlan& plan, StepMode mode, RankResult& result);
  void compute_expert(int layer_idx, int logical_expert, std::span<const ExpertRow> rows);
  void list_wanted_rows(const RankPlan& plan);
  void finish_segments(const RankPlan& plan, RankResult& result);
  void use_logits(const SegmentPlan& plan,
                  int token_idx,
                  std::span<float> logits,
                  SegmentResult& result);

  const ModelWeights& weights_;
  RankRecorder* recorder_;
  MoeRank moe_;
  RankForward forward_;
  LayerSink layer_sink_;
  std::unordered_map<int64_t, SequenceState> sequences_;
  std::vector<Segment> segments_;
  std::vector<float> moe_out_;
  ExpertScratch expert_scratch_;
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
