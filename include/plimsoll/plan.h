// Planning: from the load traffic put on the experts to a placement, with a proof of how good it
// is.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/dispatch.h"
#include "plimsoll/placement.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct PlanOptions {
  std::string algorithm = "plimsoll";  // one of eplb_algorithms()
  int num_ranks = 1;
  int num_redundant_experts = 0;
  // How the engine that will run the plan spreads tokens over copies: what plimsoll plans for, and
  // what every plan is certified for.
  Dispatch dispatch = Dispatch::kExact;
  int num_nodes = 1;
  int num_groups = 0;                 // expert groups of the model; 0: it has none
  std::vector<uint8_t> active_ranks;  // elasticity_aware: 0 for a dead rank; empty: all alive

  int num_threads = 0;  // that plan layers; 0: as many as there are cores

  // The placement in force; num_layers 0: none. `plimsoll` then names ranks and slots so that few
  // experts move.
  Placement in_force;
  // plimsoll, with a placement in force: how many experts may move, over all layers; they are spent
  // where each lowers the maxima most. -1: any number.
  int max_moved_experts = -1;
};

// The values of --eplb-algorithm.
//   plimsoll               ours and the default: as level as it finds for the dispatch that will
//                          run the plan, never less so than any of the others, and of equals as
//                          level as possible over the recorded steps; routed exactly, proven
//                          optimal for the known load wherever there are at least ranks - 1
//                          redundant experts
//   plimsoll_hierarchical  the same, with all copies of an expert group within one node
//   auto                   SGLang's rule: elasticity_aware where a rank is dead; else
//                          deepseek_hierarchical where the model has expert groups that divide over
//                          the nodes, else deepseek
//   others                 see eplb.h
std::span<const std::string_view> eplb_algorithms();

// Which argument gives the best lower bound on the fullest rank of a layer, over all placements
// with as many slots.
enum class Bound {
  kMean,             // the fullest rank holds at least the mean
  kReplicaBudget,    // some expert's share per copy exceeds it, however the copies are spent
  kSlotCardinality,  // every slot is taken: a hot expert's rank also holds the coldest ones
  kSlotBudget,       // both together: the ranks of hot experts' copies also hold the coldest ones
};

// How good a placement is for one layer of a known load, in tokens.
struct Certificate {
  int64_t max_load = 0;       // of the fullest rank under the dispatch, rounded up
  int64_t max_load_even = 0;  // the same with every expert split evenly over its copies
  double mean_load = 0;       // per rank
  int64_t lower_bound = 0;    // no placement with as many slots has a smaller max_load
  Bound binding = Bound::kMean;
  int32_t hottest_expert = 0;
  int64_t hottest_load = 0;
  int32_t hottest_copies = 0;      // ranks that hold the hottest expert
  int32_t copies_beside_twin = 0;  // see num_copies_beside_twin: they help nobody
  // [num_ranks] 1: the ranks that set max_load; routed exactly, those whose load cannot leave them.
  std::vector<uint8_t> bound_ranks;

  // How far the placement may be from the best one, 0 being proven optimal.
  double gap() const {
    return lower_bound == 0 ? 0
                            : static_cast<double>(max_load) / static_cast<double>(lower_bound) - 1;
  }
};

struct Plan {
  Placement placement;
  std::string algorithm;                  // the one used, where `auto` was asked for
  std::vector<Certificate> certificates;  // [num_layers]
  // Per layer, how many slots must load an expert that their rank does not hold in the placement in
  // force: times an expert's bytes, what the change costs. Empty without a placement in force.
  std::vector<int32_t> moved_experts;
};

// Fails on an unknown algorithm (the message lists them), slots that do not divide over the ranks
// (it names the nearest counts that do), groups or nodes that do not divide, and a load without any
// token.
Result<Plan> make_plan(const LoadHistory& load, const PlanOptions& options);

// One placement for several recorded loads, such as the prompts of the day and those of the night.
struct RobustPlan {
  Placement placement;
  std::string algorithm;
  std::vector<std::vector<Certificate>> certificates;  // [scenario][layer], of each load by itself
  std::vector<int32_t> moved_experts;                  // as Plan's
};

// Plans for the worst of the scenarios: in every layer the largest of their max/mean, over the
// recorded steps routed exactly, is made as small as the search finds, and of equals the mean,
// weighted by recorded tokens. Never worse, judged so, than the plan it finds for any of them
// alone. Fails as make_plan does, and on loads of different layers or experts, algorithms other
// than plimsoll and plimsoll_hierarchical, or a limit on moved experts.
Result<RobustPlan> make_robust_plan(std::span<const LoadHistory> scenarios,
                                    const PlanOptions& options);

// Per layer, the slots of `to` whose rank does not hold their expert in `from`. Both must have the
// same layers, slots and ranks.
Result<std::vector<int32_t>> moved_experts(const Placement& from, const Placement& to);

// Certifies a placement against a load, [num_layers, num_logical_experts]. Ranks marked 0 in
// active_ranks (empty: all alive) hold nothing; SGLang's dispatch knows no such ranks. Layers are
// certified on several threads where there are cores.
Result<std::vector<Certificate>> certify(const Placement& placement,
                                         std::span<const int64_t> load,
                                         std::span<const uint8_t> active_ranks = {},
                                         Dispatch dispatch = Dispatch::kExact,
                                         int num_nodes = 1);

// The load of all steps together, [num_layers, num_logical_experts].
std::vector<int64_t> total_load(const LoadHistory& load);

// Why the layer cannot do better, in a sentence.
std::string explain(const Certificate& certificate);

}  // namespace plimsoll
