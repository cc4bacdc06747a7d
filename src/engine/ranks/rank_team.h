// The ranks of this process: a thread each, pinned to a core of its own where cores suffice.
#pragma once

#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "comm/process_group.h"
#include "comm/thread_group.h"
#include "cuda/model/packed_model.h"
#include "engine/ranks/rank_worker.h"
#include "engine/schedule/step.h"

namespace plimsoll {

class RankTeam {
 public:
  // Starts one thread for each rank of the layout, or for those that `processes` (or null) has in
  // this process. They compute with `model` on a GPU where it is not null, else with `weights`. All
  // these and `layout`, `recorder` (or null) and `processes` must outlive the team.
  RankTeam(const ModelWeights& weights,
           const gpu::PackedModel* model,
           const MoeLayout& layout,
           const MoeOptions& options,
           Recorder* recorder,
           bool pin_ranks,
           ProcessGroup* processes = nullptr);
  ~RankTeam();

  // Of all processes.
  int num_ranks() const { return group_.num_ranks(); }

  // Sequences whose states this process holds. Between steps only, as what follows.
  size_t num_sequences() const;
  void set_layer_sink(const LayerSink& sink) {
    for (const auto& worker : workers_) worker->set_layer_sink(sink);
  }

  // One step on all ranks of this process. An error ends the team: every later call returns it
  // again.
  Status run(const StepPlan& plan, StepResult& result);

 private:
  void serve(int idx);

  RankBlock local_;    // the ranks of this process; below, [idx] is rank local_.first + idx
  ThreadGroup group_;  // where there are no other processes
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::vector<std::unique_ptr<RankWorker>> workers_;

  // The step at hand. The ranks and the caller meet before it and after it.
  std::barrier<> meeting_;
  const StepPlan* plan_ = nullptr;  // null: time to stop
  StepResult* result_ = nullptr;
  std::vector<Status> statuses_;  // [idx], of the last step
  std::vector<std::jthread> threads_;
};

}  // namespace plimsoll
