// Routing one layer of one batch: which copy of each routed expert, and which rank's shared expert,
// serves each token, so that the fullest rank is as empty as the placement allows.
//
// Tokens of source rank s choose logical expert e counts[s, e] times; e may run on any rank holding
// a copy, the shared expert on any rank at all. route() turns the counts of all ranks into quotas
// with the smallest possible maximum rank load and, among those, the fewest (token, expert) pairs
// sent to another rank. It is a minimum-cost flow in integers with fixed tie-breaks: every rank
// that holds the same counts computes the same quotas, so nothing but the counts need be exchanged.
// assign() then deals the quotas of one source rank out to its tokens.
//
//   set-up, per layer:     make_route_tables, RouteWorkspace, RoutePlan
//   per batch and layer:   route (once per process), assign (once per source rank)
//
// Nothing is allocated after set-up.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/level.h"
#include "plimsoll/placement.h"
#include "plimsoll/result.h"

namespace plimsoll {

// How a copy of a routed expert is chosen (`--ep-dispatch-algorithm`).
enum class DispatchAlgorithm {
  kExact,    // the smallest maximum, then the fewest messages
  kStatic,   // the copy nearest to the source rank, always the same one
  kDynamic,  // a random copy for every token, seeded
};

// The cost of the shared expert in units of a routed expert: num / den.
struct CostRatio {
  int32_t num = 1;
  int32_t den = 1;
};

// A decimal of 0 or more as such a ratio, in millionths.
CostRatio to_ratio(double value);

// What the fullest rank is the fullest of (`--route-objective`), with kExact.
enum class RouteObjective {
  kTokens,   // (token, expert) pairs: what bounds prefill
  kExperts,  // routed experts at work, each on one copy only: weights read, what bounds small
             // decode steps (cf. METRO, arXiv 2512.09277). The shared expert stays at home
  kTime,     // ns_per_expert for every expert at work + ns_per_token for every pair
};

// Which rank's shared expert serves a token, with waterfill.
enum class WaterfillRule {
  kLevel,  // so that the fullest rank is as empty as can be
  // SGLang's published rule (its pull request 19290), to compare with: every token draws a rank,
  // in proportion to how far the ranks' routed load lies below a waterline, other ranks than its
  // own at 10/11 of that; a source of fewer than 64 tokens keeps its shared experts at home.
  // kSglang takes the load from the source's own tokens (`--enable-waterfill`), kSglangGlobal from
  // those of all ranks (SGLANG_DISABLE_STATIC_WATERFILL=1), and then, where a rank is above the
  // waterline, draws only from ranks that the token visits anyway. They know one shared expert and
  // ranks that are alike.
  kSglang,
  kSglangGlobal,
};

// What a layer's batch takes, to weigh copies against what they save (`bench` measures it). A rank
// takes ns_per_token for every unit of load and ns_per_expert for every copy that it got; copies
// come into a rank, and leave one, one after the other, and ns_hidden of that passes while tokens
// are dispatched in any case.
struct JitCost {
  int64_t ns_per_token = 0;
  int64_t ns_per_expert = 0;
  int64_t ns_per_copy = 0;         // bytes of an expert over the speed of a link in a domain
  int64_t ns_per_copy_across = 0;  // and of one between domains
  int64_t ns_hidden = 0;
};

struct JitOptions {
  int slots_per_rank = 0;       // spare slots of every rank, the same for all layers; 0: no copies
  CostRatio tolerance{1, 100};  // how far above level the fullest rank may stay: num / den
  int32_t min_tokens = 1;       // a copy that would serve fewer tokens is not made
  // Ranks [i * n, (i + 1) * n) share fast links: among copies that do as much, those within such a
  // domain are taken. 0: all ranks share them.
  int ranks_per_domain = 0;
  // With ns_per_token above 0: the target is the one with the least predicted time, at or above the
  // tolerance; where copies cost more than they save none are made.
  JitCost cost;
};

struct RouteOptions {
  DispatchAlgorithm algorithm = DispatchAlgorithm::kExact;
  bool waterfill = false;  // the shared expert may run on any rank; else at home
  WaterfillRule waterfill_rule = WaterfillRule::kLevel;
  int num_shared_experts = 1;  // 0: none; several: each is placed by itself
  CostRatio shared_cost;
  uint64_t seed = 0;  // of kDynamic; of kSglang and kSglangGlobal, where 0 draws as SGLang does
  RouteObjective objective = RouteObjective::kTokens;
  int32_t ns_per_expert = 0;  // of kTime
  int32_t ns_per_token = 1;
  // [num_ranks], how long a rank takes over a unit of load, relative to the others: {4, 5} for a
  // rank a quarter faster than the other. 0: the rank is masked out; it holds nothing and has no
  // tokens. Empty: all are alike.
  std::vector<int32_t> rank_cost;
  JitOptions jit;  // of jit_route() (just_in_time.h); route() makes no copies
};

// How free units, which may go to any copy of their expert, level the ranks: see
// src/balance/route/local_start.h. Ranks that share experts, directly or through others, form a
// tree; places list the ranks tree by tree, parents before their children. An arc is one of the
// graph's.
struct SpreadTables {
  // [num_ranks, num_ranks], potential here by a unit too much there; empty above 128 ranks.
  std::vector<int32_t> response;
  std::vector<int32_t> rank;         // [places]
  std::vector<int32_t> subtree_end;  // [places], the place after its last descendant
  std::vector<int32_t> tree_begin;   // [places]
  std::vector<int32_t> tree_end;     // [places]
  std::vector<int32_t> arc_out;      // [places], units to the parent leave this arc; -1 at a root
  std::vector<int32_t> arc_in;       // [places], and enter this one
};

// What routing needs to know of one layer's placement, laid out for the solver. Immutable once
// made: one copy serves any number of threads.
//
// An item is load that can be split: the shared expert (item 0, with waterfill) and every expert
// with copies on several ranks, ascending. An arc is an (item, rank holding a copy) pair; arcs are
// listed by item, then rank.
struct RouteTables {
  int num_ranks = 0;
  int num_experts = 0;  // logical
  int num_slots = 0;    // physical
  RouteOptions options;
  ReplicaTable replicas;
  std::vector<int32_t> static_slot;  // [num_ranks, num_experts], kStatic only

  LevelGraph graph;                  // the items and the ranks they may lie on
  std::vector<int32_t> item_expert;  // [graph.num_items], -1: the shared expert
  std::vector<int32_t> rank_cost;    // [num_ranks], 0: masked out
  SpreadTables spread;               // empty where no expert has copies
};

// Fails on an invalid placement, a layer out of range, or options that cannot be.
Result<RouteTables> make_route_tables(const Placement& placement,
                                      int layer_idx,
                                      const RouteOptions& options = {});

// The answer, and the proof of it. Loads are in cost units: a routed (token, expert) pair costs
// shared_cost.den, a shared one shared_cost.num, on each rank times its rank_cost; with the usual
// ratio of 1 and ranks alike they are tokens. With kExperts the units are experts at work, with
// kTime ns times shared_cost.den.
//
// With kTokens and kExact max_load is the smallest possible and num_messages the smallest for it;
// save where a waterfilled shared expert costs neither 0 nor 1 and the batch is not small: then
// max_load is within the cost of one shared expert of the smallest, and equal to it for costs of
// 1/n (filling ranks with lumps is as hard as packing bins). With kExperts max_load is the smallest
// possible; with kTime it is the best that moving experts about finds.
struct RoutePlan {
  explicit RoutePlan(const RouteTables& tables);

  int num_ranks = 0;
  int num_slots = 0;
  std::vector<int32_t> routed;     // [source rank, slot]: tokens of a source served by a slot
  std::vector<int32_t> shared;     // [source rank, rank]: shared-expert tokens of a source
  std::vector<int64_t> rank_load;  // [num_ranks]
  int64_t max_load = 0;
  // No routing of these counts under these options has a smaller maximum: the least waterline under
  // which the ranks of bound_ranks have room for the load that cannot leave them. With ranks alike
  // that is the load over their number, rounded up.
  int64_t lower_bound = 0;
  std::vector<uint8_t> bound_ranks;  // [num_ranks], 0 or 1
  int64_t num_messages = 0;          // (token, expert) pairs, shared included, sent to another rank

  std::span<const int32_t> routed_by(int source) const {
    return std::span(routed).subspan(static_cast<size_t>(source) * num_slots, num_slots);
  }
  std::span<const int32_t> shared_by(int source) const {
    return std::span(shared).subspan(static_cast<size_t>(source) * num_ranks, num_ranks);
  }
};

// "max 1024, mean 1020.5, bound 1024 (ranks 0 3), 512 messages; load 1024 1019 ..."
std::string to_string(const RoutePlan& plan);

// Scratch of one thread, for any batch and any layer of the placement it was made for.
struct RouteWorkspace {
  explicit RouteWorkspace(const RouteTables& tables);

  std::vector<int32_t> expert_total;    // [num_experts]
  std::vector<int64_t> unit_cost;       // [num_ranks], of a unit that is levelled
  std::vector<int64_t> offset;          // [num_ranks], cost that is there before any unit
  std::vector<int64_t> fixed_load;      // [num_ranks], units without a choice
  std::vector<int64_t> start_amount;    // [num_arcs], the assignment levelling starts from
  std::vector<int64_t> start_load;      // [num_ranks]
  std::vector<int64_t> best_amount;     // [num_arcs], the best of several assignments
  std::vector<int64_t> potential;       // [num_ranks]
  std::vector<int64_t> target;          // [num_ranks]
  std::vector<int64_t> surplus_before;  // [num_ranks + 1]
  std::vector<int64_t> moved;           // [num_ranks]
  LevelState level;
  std::vector<int32_t> supply;       // [num_ranks]
  std::vector<int32_t> quota;        // [max(num_slots, num_ranks)]
  std::vector<int32_t> quota_begin;  // [num_ranks]
  std::vector<int32_t> cursor;       // [num_experts]
};

// counts: [num_ranks, num_experts], how often the tokens of a source chose a logical expert.
// active_tokens: [num_ranks], tokens of a source that need the shared expert.
// Fails, leaving `plan` unspecified, on spans of other sizes, a negative count, or a total cost
// above 2^31 - 1.
Status route(const RouteTables& tables,
             std::span<const int32_t> counts,
             std::span<const int32_t> active_tokens,
             RouteWorkspace& workspace,
             RoutePlan& plan);

// Deals the quotas of one source rank out to its tokens.
//   topk_ids      [num_tokens, k], logical; -1: no expert here
//   physical_ids  [num_tokens, k], out; the slot serving each choice, -1 where topk_ids has it
//   shared_ranks  [num_tokens, num_shared_experts], out; the rank of each shared expert, -1 for a
//                 token without any expert (padding)
// Copies are taken in ascending rank as their quotas fill, tokens in their order. A shared expert
// that leaves home goes by preference to a rank its token visits anyway; by one of SGLang's rules
// it goes where its token draws. Fails where the ids are not those that were counted: every quota
// is used up exactly.
Status assign(const RouteTables& tables,
              const RoutePlan& plan,
              int source,
              std::span<const int32_t> topk_ids,
              int k,
              RouteWorkspace& workspace,
              std::span<int32_t> physical_ids,
              std::span<int32_t> shared_ranks);

// By SGLang's rules only the tokens know where their shared experts go: route() leaves these at
// home, in the quotas and the sums, and assign() does the drawing. This enters what assign() drew
// for one source rank. Once all have been entered, plan is that of the batch, and its lower bound
// is its maximum. Fails on ranks that are not there, or are not as many as the source's.
Status enter_shared_ranks(const RouteTables& tables,
                          int source,
                          std::span<const int32_t> shared_ranks,
                          RoutePlan& plan);

}  // namespace plimsoll
