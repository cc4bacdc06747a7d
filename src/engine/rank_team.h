// The ranks of this process: a thread each, pinned to a core of its own where cores suffice.
#pragma once

#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "comm/thread_group.h"
#include "engine/rank_worker.h"
#include "engine/step.h"

namespace plimsoll {

class RankTeam {
 public:
  // Starts one thread for each rank of the layout. `weights`, `layout` and `recorder` (or null)
  // must outlive the team.
  RankTeam(const ModelWeights& weights,
           const MoeLayout& layout,
           const MoeOptions& options,
           Recorder* recorder,
           bool pin_ranks);
  ~RankTeam();

  int num_ranks() const { return group_.num_ranks(); }

  // Between steps only.
  void set_layer_sink(const LayerSink& sink) {
    for (const auto& worker : workers_) worker->set_layer_sink(sink);
  }

  // One step on all ranks. An error ends the team: every later call returns it again.
  Status run(const StepPlan& plan, StepResult& result);

 private:
  void serve(int rank);

  ThreadGroup group_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<RankWorker>> workers_;

  // The step at hand. The ranks and the caller meet before it and after it.
  std::barrier<> meeting_;
  const StepPlan* plan_ = nullptr;  // null: time to stop
  StepResult* result_ = nullptr;
  std::vector<Status> statuses_;  // [rank], of the last step
  std::vector<std::jthread> threads_;
};

}  // namespace plimsoll
