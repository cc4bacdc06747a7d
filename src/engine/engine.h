// The engine: R ranks stepping together over the requests it is given.
//
// Used by one thread at a time: submit, step until idle, read the updates. Where several processes
// hold the ranks, each creates the engine; process 0 uses it, and the others follow.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/elastic_stats.h"
#include "engine/options.h"
#include "engine/ranks/local_ranks.h"
#include "engine/ranks/process_steps.h"
#include "engine/rebalance/rebalancer.h"
#include "engine/schedule/request.h"
#include "engine/schedule/scheduler.h"

namespace plimsoll {

class Engine {
 public:
  // Checks the options, then loads the weights and starts the ranks. All processes of options.mesh
  // call this at once; what fails in one of them fails in all.
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);
  ~Engine();
  // In processes other than 0: runs what process 0 asks for until its engine is gone, or fails.
  Status follow();
  // Whether every process with ranks still lives, or those that must, with --elastic. These two may
  // be called from any thread.
  Status health() const;
  int num_living_ranks() const;

  const ModelConfig& config() const { return ranks_.config(); }
  const EngineSetup& setup() const { return setup_; }
  const Scheduler& scheduler() const { return scheduler_; }

  // Refuses a prompt that is empty, too long, or holds ids outside the vocabulary. check alone may
  // be called from any thread.
  Status check(const Request& request) const;
  Status submit(Request request);
  void cancel(int64_t request_id) { scheduler_.cancel(request_id); }
  // Where the layers of requests with `hand_over` go. To be set between steps.
  void set_layer_sink(const LayerSink& sink) { ranks_.set_layer_sink(sink); }
  bool idle() const { return scheduler_.idle(); }

  // Runs one step and appends the news of its requests. The plan and the result stay readable until
  // the next step.
  Status step(std::vector<RequestUpdate>& updates);
  // Lets the ranks of an idle engine drop the states of sequences that ended after the last step.
  Status drop_ended();
  size_t num_held_sequences() const { return ranks_.num_sequences(); }  // by this process' ranks
  const StepPlan& last_plan() const { return plan_; }
  const StepResult& last_result() const { return result_; }

  // Puts another placement of one layer in force before the next step, on all ranks at once.
  // `slots` [num_physical_experts] names the logical expert of each slot; it must have one for
  // every expert. Waits for experts to come to other processes; where that fails nothing changes.
  // No answer changes by it.
  Status switch_layer(int layer_idx, std::span<const int32_t> slots);
  const Placement& placement() const { return setup_.layout.placement; }  // in force

  const ElasticStats& elastic() const { return elastic_stats_; }
  // Of --enable-eplb; null without it.
  const Rebalancer* rebalancer() const { return rebalancer_ ? &*rebalancer_ : nullptr; }
  // Plans a rebalance now. Fails without --enable-eplb, and while one is under way.
  Status start_rebalance();
  // What the operator should hear of since the last call, a line each.
  std::vector<std::string> take_news();

  // Fail where no --expert-distribution-recorder-mode was chosen. A dump returns the paths of the
  // files it wrote into `folder` and starts over, as SGLang's does.
  Status start_recording();
  Status stop_recording();
  Result<std::vector<std::string>> dump_recording(const std::string& folder);
  const Recorder* recorder() const { return recorder_ ? &*recorder_ : nullptr; }

 private:
  Engine(ModelWeights weights,
         std::unique_ptr<gpu::PackedModel> model,
         EngineSetup setup,
         const EngineOptions& options,
         std::optional<ProcessParts> processes);
  bool leads() const { return mesh_ != nullptr && mesh_->process() == 0; }
  Recorder* recorder_or_null() { return recorder_ ? &*recorder_ : nullptr; }
  void start_rebalancer();
  Status run(const StepPlan& plan, StepResult& result, Outcome& outcome);
  void end_recorded_pass();
  // Of process 0, after a step has failed: ok where processes were dead and the others are ready.
  Status go_on_without_the_dead(const Status& failure, Outcome outcome);
  Result<Regroup> regroup() const;
  // Of experts that travel to other processes.
  Result<std::optional<double>> bring_layer(const LayerLayout& next);
  void note_moves(const std::vector<MoveReport>& reports);
  void forget_move(int layer_idx);

  EngineSetup setup_;
  std::optional<Recorder> recorder_;
  ProcessMesh* mesh_;  // null: one process
  LocalRanks ranks_;
  Scheduler scheduler_;
  std::optional<Rebalancer> rebalancer_;
  std::vector<LayerLayout> pending_;  // to be switched before the next step
  StepPlan plan_;
  StepResult result_;
  std::string eplb_algorithm_;

  // Of process 0 where several hold the ranks.
  struct Bringing {
    int num_left = 0;  // processes that are not ready
    double seconds = 0;
    std::string error;
  };
  std::map<int, Bringing> bringing_;  // by layer
  LayerOrders layer_orders_;          // for the next step
  uint32_t epoch_ = 0;
  LoadHistory load_;  // one step: all so far
  ElasticStats elastic_stats_;
  std::vector<std::string> news_;
};

}  // namespace plimsoll
