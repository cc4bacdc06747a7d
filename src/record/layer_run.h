// Routes the batches of one layer as a policy has it, and sums up what they came to.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "plimsoll/just_in_time.h"
#include "plimsoll/placement.h"
#include "plimsoll/replay.h"
#include "plimsoll/result.h"
#include "plimsoll/route.h"

namespace plimsoll {

// What one layer's batches came to.
struct LayerSamples {
  std::vector<double> max_over_mean, bound_over_mean;  // [batches with work]
  double sum_max = 0, sum_mean = 0;
  double sum_balancedness = 0;
  int64_t num_messages = 0;
  int64_t num_pairs = 0, num_remote_pairs = 0;
  std::vector<int64_t> rank_load;             // [num_ranks]
  int64_t num_copies = 0, min_copies = 0;     // just in time
  int64_t standing_ns = 0, predicted_ns = 0;  // of the fullest ranks, where copies have a cost
};

// One way to route a layer, with its scratch.
struct LayerRouter {
  explicit LayerRouter(JitTables t) : tables(std::move(t)), workspace(tables), plan(tables) {}

  JitTables tables;
  JitWorkspace workspace;
  JitPlan plan;
};

// A layer's batch and what the batches so far came to; used by one thread.
class LayerRun {
 public:
  static Result<LayerRun> make(const Placement& placement,
                               int layer_idx,
                               const RouteOptions& route,
                               const ReplayOptions& options);

  int num_ranks() const { return router_.tables.standing.num_ranks; }
  int num_experts() const { return router_.tables.standing.num_experts; }
  const RouteOptions& route_options() const { return router_.tables.standing.options; }

  // Routes the batch that stands in counts and active_tokens.
  Status route_batch();
  // What assign() needs to deal the batch out; null where a rule says no more than loads.
  const RouteTables* tables() const;
  RouteWorkspace& workspace() { return router_.workspace.route; }
  RoutePlan& plan() { return router_.plan.route; }
  // Takes what the batch came to into the samples.
  void add_samples();

  std::vector<int32_t> counts;         // [num_ranks, num_experts]
  std::vector<int32_t> active_tokens;  // [num_ranks]
  LayerSamples samples;

 private:
  LayerRun(JitTables tables, JitTables best_tables, std::optional<JitRule> rule);
  void apply_rule_to_batch();

  std::optional<JitRule> rule_;
  LayerRouter router_;  // of the policy in question
  LayerRouter best_;    // exact, the shared experts free where they can be
  int32_t num_rule_copies_ = 0;
};

}  // namespace plimsoll
