// The ranks of this process and what they share: weights, placement, threads, and their group,
// which may lose processes (--elastic) and whose experts may move (--enable-eplb).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/ranks/rank_team.h"
#include "engine/rebalance/layer_moves.h"

namespace plimsoll {

// What is left after processes have died.
struct Regroup {
  uint32_t epoch = 0;
  std::vector<int32_t> members;  // the processes that go on
  int32_t num_physical_experts = 0;
  std::vector<int32_t> physical_to_logical;  // of their ranks, numbered anew
};

// Where several processes hold the ranks.
struct ProcessParts {
  ProcessMesh& mesh;
  std::unique_ptr<ProcessGroup> group;
  Checkpoint checkpoint;  // of the experts that may have to come
};

class LocalRanks {
 public:
  // `layout` and `recorder` (or null) must outlive the ranks. With a `model` the ranks are on a
  // GPU, and `weights` holds the config alone. No `processes`: all ranks are here.
  LocalRanks(ModelWeights weights,
             std::unique_ptr<gpu::PackedModel> model,
             MoeLayout& layout,
             const MoeOptions& options,
             Recorder* recorder,
             bool pin_ranks,
             std::optional<ProcessParts> processes);

  const ModelConfig& config() const { return weights_.config; }
  Recorder* recorder() const { return recorder_; }
  int num_ranks() const { return layout_.placement.num_ranks; }
  size_t num_sequences() const { return team_->num_sequences(); }  // whose states are here
  // Only with processes.
  ProcessMesh& mesh() const { return processes_->mesh; }
  ProcessGroup& group() const { return *processes_->group; }
  LayerMoves& moves() { return *moves_; }

  void set_layer_sink(const LayerSink& sink) { team_->set_layer_sink(sink); }
  Status run(const StepPlan& plan, StepResult& result) { return team_->run(plan, result); }

  // Begins anew with the members that are left: sequences are forgotten, experts that no rank here
  // held are read from the checkpoint, and whoever is no member is dead. Where it fails the ranks
  // cannot be used any more.
  Status restart(const Regroup& regroup);

 private:
  void start();
  Status load_missing();

  ModelWeights weights_;
  const std::unique_ptr<gpu::PackedModel> model_;
  MoeLayout& layout_;
  const MoeOptions options_;
  Recorder* const recorder_;
  const bool pin_ranks_;
  std::optional<ProcessParts> processes_;
  std::optional<LayerMoves> moves_;
  std::optional<RankTeam> team_;
};

}  // namespace plimsoll
