// Online EPLB: watches the load, plans in the background, and switches the layers that gain by it,
// a few between two steps.
//
//   watching ── num_iterations steps ──► planning (a thread of its own) ──► switching ──► watching
//
// Whatever fails, the placement of a layer that has not been switched stays in force.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/rebalance/load_window.h"
#include "engine/rebalance/rebalance_plan.h"

namespace plimsoll {

struct RebalanceOptions {
  int num_iterations = 1000;   // --eplb-rebalance-num-iterations
  int layers_per_chunk = 1;    // --eplb-rebalance-layers-per-chunk
  double max_utilization = 1;  // --eplb-min-rebalancing-utilization-threshold: above it all is well
  std::string algorithm;       // --eplb-algorithm
  int num_nodes = 1;
  RouteOptions route;
  int top_k = 0;
  // First guess of what it takes to bring an expert to another rank, improved as experts move;
  // 0: ranks share the experts' memory, and nothing travels.
  double seconds_per_moved_expert = 0;
};

// One turn, from the plan on.
struct RebalanceReport {
  int64_t number = 0;     // 1 is the first
  int64_t num_steps = 0;  // that the plan looked at
  int num_layers = 0;     // switched
  int num_moved = 0;      // experts that had to come from another rank
  double plan_seconds = 0;
  double longest_pause_seconds = 0;           // between two steps
  double switch_seconds = 0;                  // of all layers
  double gain_seconds = 0, cost_seconds = 0;  // predicted, until the next turn
  // Sum of the fullest ranks' loads over that of the mean ranks', of all layers.
  double max_over_mean_before = 1;
  double max_over_mean_predicted = 1;
  std::optional<double> max_over_mean_measured;  // from the last switch to the next turn
  std::string failure;                           // empty: none
};

struct RebalanceStats {
  int64_t num_rebalances = 0;  // turns that switched a layer
  int64_t num_skipped = 0;     // turns that left all as it was: level enough, or nothing pays
  int64_t num_failed = 0;
  int64_t num_switched_layers = 0;
  int64_t num_moved_experts = 0;
  double longest_pause_seconds = 0;
  std::optional<RebalanceReport> last;  // the last turn that switched a layer, or failed
};

class Rebalancer {
 public:
  using Plan = std::function<Result<RebalancePlan>(const RebalanceTask&)>;
  // Has the experts of a layer brought to their new ranks while steps go on: asked before every
  // step until it says how many seconds that took a rank, or fails. Null: nothing travels.
  using BringLayer = std::function<Result<std::optional<double>>(const LayerLayout& next)>;
  // Puts a layer in force. Only changes anything if it succeeds.
  using SwitchLayer = std::function<Status(LayerLayout& next)>;

  // `in_force` must outlive the rebalancer; it is read between steps.
  Rebalancer(const RebalanceOptions& options,
             const Placement& in_force,
             SwitchLayer switch_layer,
             BringLayer bring_layer = nullptr,
             Plan plan = plan_rebalance);

  // Around every step.
  void before_step();
  void after_step(const StepResult& result);

  // The placement has changed otherwise, and with it the number of ranks: the turn under way means
  // nothing any more.
  void abandon_turn();

  // Plans now instead of after num_iterations steps. Fails while a turn is under way, and where
  // no step has been watched.
  Status start_turn();

  const RebalanceStats& stats() const { return stats_; }
  // What happened since the last call, a line each.
  std::vector<std::string> take_news() { return std::exchange(news_, {}); }

 private:
  struct Job {
    RebalanceTask task;
    std::unique_ptr<LoadWindow> window;
    Result<RebalancePlan> plan = RebalancePlan{};
    double seconds = 0;
  };

  void serve_jobs(std::stop_token stop);
  void measure_last_turn();
  void take_plan();
  void switch_chunk();
  Result<std::optional<double>> bring(const LayerLayout& next);
  void keep_layer(const Error& why);
  void learn_cost(double switch_seconds, double bring_seconds, int num_moved);
  void fail(const std::string& what);
  void end_turn();

  const RebalanceOptions options_;
  const Placement& in_force_;
  const SwitchLayer switch_layer_;
  const BringLayer bring_layer_;
  const Plan plan_;

  enum class State { kWatching, kPlanning, kAbandoned, kSwitching } state_ = State::kWatching;
  std::unique_ptr<LoadWindow> window_, spare_window_;
  RebalanceReport report_;          // of the turn under way
  std::deque<LayerLayout> layers_;  // still to be switched
  std::deque<int32_t> num_moved_;   // of each
  RebalanceCosts costs_;
  RebalanceStats stats_;
  std::vector<std::string> news_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<Job> todo_, done_;  // guarded by mutex_
  std::jthread planner_;
};

}  // namespace plimsoll
