#include "balance/route/sampled_waterfill.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {
namespace {

// SGLang's numbers.
constexpr size_t kMinTokens = 64;
constexpr int64_t kHomeWeight = 11, kAwayWeight = 10;

int64_t active_tokens(const RoutePlan& plan, int source) {
  const auto shared = plan.shared_by(source);
  return std::accumulate(shared.begin(), shared.end(), int64_t{0});
}

void add_routed(const RouteTables& t, std::span<const int32_t> routed, std::span<int64_t> load) {
  const int slots_per_rank = t.num_slots / t.num_ranks;
  for (int slot = 0; slot < t.num_slots; ++slot) load[slot / slots_per_rank] += routed[slot];
}

// Draws for the tokens of one source.
class Sampler {
 public:
  Sampler(const RouteTables& t, const RoutePlan& plan, int source, int k, RouteWorkspace& w)
      : t_(t), source_(source), load_(w.target), weight_(w.potential), is_open_(w.supply) {
    const bool is_global = t.options.waterfill_rule == WaterfillRule::kSglangGlobal;
    std::fill(load_.begin(), load_.end(), 0);
    for (int s = 0; s < t.num_ranks; ++s) {
      if (is_global || s == source) add_routed(t, plan.routed_by(s), load_);
    }
    const int64_t num_tokens = std::accumulate(load_.begin(), load_.end(), int64_t{0}) / k;
    for (int s = 0; s < t.num_ranks && is_global; ++s) load_[s] += active_tokens(plan, s);
    const int64_t sum = std::accumulate(load_.begin(), load_.end(), num_tokens);
    const int64_t waterline = (sum + t.num_ranks - 1) / t.num_ranks;
    opens_all_ = !is_global || *std::max_element(load_.begin(), load_.end()) <= waterline;
    for (int r = 0; r < t.num_ranks; ++r) {
      weight_[r] = std::max<int64_t>(waterline - load_[r], 0);
      if (r != source) weight_[r] = weight_[r] * kAwayWeight / kHomeWeight;
    }
  }

  int32_t draw(uint32_t token_idx, std::span<const int32_t> slots) {
    std::fill(is_open_.begin(), is_open_.end(), opens_all_);
    is_open_[source_] = 1;
    const int slots_per_rank = t_.num_slots / t_.num_ranks;
    for (const int32_t slot : slots) {
      if (slot >= 0) is_open_[slot / slots_per_rank] = 1;
    }
    int64_t sum = 0;
    for (int r = 0; r < t_.num_ranks; ++r) sum += is_open_[r] * weight_[r];
    if (sum == 0) return emptiest(slots);
    int64_t left = hash(token_idx) % sum;
    int r = 0;
    while (!is_open_[r] || left >= weight_[r]) left -= is_open_[r] * weight_[r], ++r;
    return r;
  }

 private:
  // A linear congruence of the token's place, each source's own.
  uint32_t hash(uint32_t token_idx) const {
    const uint32_t key = token_idx ^ (static_cast<uint32_t>(source_) * 0x9e3779b9u) ^
                         static_cast<uint32_t>(t_.options.seed);
    return key * 1664525u + 1013904223u;
  }

  // Where no open rank lies below the waterline: the first that is emptier than the best so far by
  // a tenth, beginning at home.
  int32_t emptiest(std::span<const int32_t> slots) const {
    int32_t best = source_;
    const auto consider = [&](int32_t r) {
      if (load_[r] * kHomeWeight < load_[best] * kAwayWeight) best = r;
    };
    if (opens_all_) {
      for (int r = 0; r < t_.num_ranks; ++r) consider(r);
      return best;
    }
    const int slots_per_rank = t_.num_slots / t_.num_ranks;
    for (const int32_t slot : slots) {
      if (slot >= 0) consider(slot / slots_per_rank);
    }
    return best;
  }

  const RouteTables& t_;
  const int source_;
  std::vector<int64_t>& load_;     // [num_ranks]
  std::vector<int64_t>& weight_;   // [num_ranks]
  std::vector<int32_t>& is_open_;  // [num_ranks], 0 or 1: of the token at hand
  bool opens_all_ = false;
};

}  // namespace

void sample_shared(const RouteTables& t,
                   const RoutePlan& plan,
                   int source,
                   std::span<const int32_t> physical_ids,
                   int k,
                   RouteWorkspace& w,
                   std::span<int32_t> shared_ranks) {
  Sampler sampler(t, plan, source, k, w);
  for (size_t i = 0; i < shared_ranks.size(); ++i) {
    const auto slots = physical_ids.subspan(i * k, k);
    if (std::all_of(slots.begin(), slots.end(), [](int32_t slot) { return slot < 0; })) {
      shared_ranks[i] = -1;
    } else if (shared_ranks.size() < kMinTokens) {
      shared_ranks[i] = source;
    } else {
      shared_ranks[i] = sampler.draw(static_cast<uint32_t>(i), slots);
    }
  }
}

Status enter_shared_ranks(const RouteTables& t,
                          int source,
                          std::span<const int32_t> shared_ranks,
                          RoutePlan& plan) {
  if (source < 0 || source >= t.num_ranks) {
    return invalid_argument("shared ranks of source rank " + std::to_string(source) + " of " +
                            std::to_string(t.num_ranks));
  }
  const auto is_token = [](int32_t rank) { return rank != -1; };
  const auto is_there = [&](int32_t rank) { return rank >= -1 && rank < t.num_ranks; };
  const int64_t num_tokens = std::count_if(shared_ranks.begin(), shared_ranks.end(), is_token);
  if (num_tokens != active_tokens(plan, source) ||
      !std::all_of(shared_ranks.begin(), shared_ranks.end(), is_there)) {
    return invalid_argument("the shared ranks of source rank " + std::to_string(source) +
                            " are not those that assign() gave for this plan");
  }
  int32_t* quota = &plan.shared[static_cast<size_t>(source) * t.num_ranks];
  const int64_t cost = t.options.shared_cost.num;
  const auto add = [&](int rank, int32_t change) {
    quota[rank] += change;
    plan.rank_load[rank] += change * cost * t.rank_cost[rank];
    if (rank != source) plan.num_messages += change;
  };
  for (int r = 0; r < t.num_ranks; ++r) add(r, -quota[r]);
  for (const int32_t rank : shared_ranks) {
    if (rank >= 0) add(rank, 1);
  }
  const auto fullest = std::max_element(plan.rank_load.begin(), plan.rank_load.end());
  plan.max_load = plan.lower_bound = *fullest;
  std::fill(plan.bound_ranks.begin(), plan.bound_ranks.end(), 0);
  plan.bound_ranks[fullest - plan.rank_load.begin()] = 1;
  return ok_status();
}

}  // namespace plimsoll
