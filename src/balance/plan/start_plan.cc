#include "balance/plan/start_plan.h"

#include <algorithm>
#include <numeric>
#include <queue>

namespace plimsoll {
namespace {

std::vector<int32_t> heaviest_first(std::span<const int64_t> load) {
  std::vector<int32_t> order(load.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return load[a] > load[b]; });
  return order;
}

struct Rank {
  int64_t load = 0;
  int32_t rank = 0;
  bool operator>(const Rank& other) const {
    return load != other.load ? load > other.load : rank > other.rank;
  }
};
using LightestFirst = std::priority_queue<Rank, std::vector<Rank>, std::greater<>>;

struct Builder {
  LayerPlan plan;
  std::span<const int64_t> load;
  std::vector<int32_t> used;       // [num_ranks], slots taken
  std::vector<int64_t> rank_load;  // [num_ranks]
  std::vector<int64_t> amount;     // [num_slots], tokens served by a slot

  Builder(std::span<const int64_t> expert_load, int num_ranks, int slots_per_rank)
      : plan{num_ranks, slots_per_rank,
             std::vector<int32_t>(static_cast<size_t>(num_ranks) * slots_per_rank, -1)},
        load(expert_load),
        used(num_ranks, 0),
        rank_load(num_ranks, 0),
        amount(plan.expert.size(), 0) {}

  int free_slots(int rank) const { return plan.slots_per_rank - used[rank]; }

  void put(int rank, int32_t e, int64_t tokens) {
    const int slot = rank * plan.slots_per_rank + used[rank]++;
    plan.expert[slot] = e;
    amount[slot] = tokens;
    rank_load[rank] += tokens;
  }
};

// Every expert once, heaviest first onto the lightest rank, leaving each rank its share of the
// redundant slots. Where a rank gets none it is the first, which gets the heaviest expert and from
// which the chain starts.
void pack_whole_experts(Builder& b, int num_redundant) {
  LightestFirst lightest;
  for (int r = 0; r < b.plan.num_ranks; ++r) lightest.push({0, r});
  const auto room = [&](int rank) {
    const int first_with_more = b.plan.num_ranks - num_redundant % b.plan.num_ranks;
    const int spare = num_redundant / b.plan.num_ranks + (rank >= first_with_more);
    return b.plan.slots_per_rank - spare;
  };
  for (const int32_t e : heaviest_first(b.load)) {
    while (b.used[lightest.top().rank] == room(lightest.top().rank)) lightest.pop();
    const int rank = lightest.top().rank;
    lightest.pop();
    b.put(rank, e, b.load[e]);
    lightest.push({b.rank_load[rank], rank});
  }
}

// Puts a copy on the lightest rank with a free slot that lacks the expert. Where every free slot is
// on a rank that has it, another rank gives up an expert to such a rank and takes the copy instead.
void put_apart(Builder& b, int32_t e, int64_t tokens) {
  int best = -1;
  int fallback = -1;
  for (int r = 0; r < b.plan.num_ranks; ++r) {
    if (b.free_slots(r) == 0) continue;
    int& choice = b.plan.holds(r, e) ? fallback : best;
    if (choice < 0 || b.rank_load[r] < b.rank_load[choice]) choice = r;
  }
  if (best >= 0) return b.put(best, e, tokens);
  for (int slot = 0; slot < b.plan.num_slots(); ++slot) {
    const int rank = b.plan.rank_of(slot);
    const int32_t other = b.plan.expert[slot];
    if (other < 0 || b.plan.holds(rank, e) || b.plan.holds(fallback, other)) continue;
    b.put(fallback, other, b.amount[slot]);
    b.plan.expert[slot] = e;
    b.rank_load[rank] += tokens - b.amount[slot];
    b.amount[slot] = tokens;
    return;
  }
  b.put(fallback, e, tokens);  // more copies than ranks
}

// Copies first, then all of them heaviest first: where copies are few, they must go to the hottest.
void pack_even_copies(Builder& b, int num_redundant) {
  const int num_experts = static_cast<int>(b.load.size());
  std::vector<int32_t> copies(num_experts, 1);
  for (int i = 0; i < num_redundant; ++i) {
    int best = 0;
    for (int e = 1; e < num_experts; ++e) {
      if (b.load[e] * copies[best] > b.load[best] * copies[e]) best = e;
    }
    ++copies[best];
  }
  std::vector<int64_t> per_copy(num_experts);
  for (int e = 0; e < num_experts; ++e) per_copy[e] = b.load[e] / copies[e];
  for (const int32_t e : heaviest_first(per_copy)) {
    for (int i = 0; i < copies[e]; ++i) put_apart(b, e, per_copy[e]);
  }
}

// Orders the ranks so that the surplus carried along never runs out: a rank below the mean follows
// once enough is carried to fill it, the emptiest that can be filled first; else the fullest.
std::vector<int32_t> chain_order(const Builder& b, int64_t mean) {
  std::vector<int32_t> full;
  std::vector<int32_t> lacking;
  for (int r = 0; r < b.plan.num_ranks; ++r) (b.rank_load[r] >= mean ? full : lacking).push_back(r);
  const auto by_load = [&](int32_t x, int32_t y) {
    return b.rank_load[x] != b.rank_load[y] ? b.rank_load[x] < b.rank_load[y] : x < y;
  };
  std::sort(full.begin(), full.end(), by_load);
  std::sort(lacking.begin(), lacking.end(), by_load);
  std::vector<int32_t> order;
  int64_t carried = 0;
  while (!full.empty() || !lacking.empty()) {
    auto next = std::partition_point(lacking.begin(), lacking.end(),
                                     [&](int32_t r) { return mean - b.rank_load[r] > carried; });
    if (next == lacking.end() && full.empty()) next = lacking.begin();
    if (next != lacking.end()) {
      order.push_back(*next);
      lacking.erase(next);
    } else {
      order.push_back(full.back());
      full.pop_back();
    }
    carried = std::max<int64_t>(carried + b.rank_load[order.back()] - mean, 0);
  }
  return order;
}

// The slot of the rank that can pass `tokens` on to `next`: the one that serves most.
int bridge_slot(const Builder& b, int rank, int next, int64_t tokens) {
  const int begin = rank * b.plan.slots_per_rank;
  int best = -1;
  for (int slot = begin; slot < begin + b.used[rank]; ++slot) {
    if (b.plan.holds(next, b.plan.expert[slot])) continue;
    if (best < 0 || b.amount[slot] > b.amount[best]) best = slot;
  }
  return best >= 0 && b.amount[best] >= tokens ? best : -1;
}

void pass_surplus_along(Builder& b) {
  const int64_t total = std::accumulate(b.load.begin(), b.load.end(), int64_t{0});
  const int64_t mean = (total + b.plan.num_ranks - 1) / b.plan.num_ranks;
  const std::vector<int32_t> order = chain_order(b, mean);
  for (size_t i = 0; i < order.size(); ++i) {
    const int rank = order[i];
    const int next = order[(i + 1) % order.size()];  // the last closes a ring
    const int64_t surplus = std::max<int64_t>(b.rank_load[rank] - mean, 0);
    if (b.free_slots(next) == 0) continue;
    const int slot = bridge_slot(b, rank, next, surplus);
    if (slot < 0) continue;
    b.amount[slot] -= surplus;
    b.rank_load[rank] -= surplus;
    b.put(next, b.plan.expert[slot], surplus);
  }
}

// The remaining slots go to the experts with the largest load per copy, on the rank that has most
// free slots, then least to level with.
void spend_free_slots(Builder& b) {
  std::vector<int32_t> copies(b.load.size(), 0);
  std::vector<double> shared_load(b.plan.num_ranks, 0);
  for (const int32_t e : b.plan.expert) {
    if (e >= 0) ++copies[e];
  }
  for (int slot = 0; slot < b.plan.num_slots(); ++slot) {
    const int32_t e = b.plan.expert[slot];
    if (e >= 0 && copies[e] > 1) {
      shared_load[b.plan.rank_of(slot)] += static_cast<double>(b.load[e]) / copies[e];
    }
  }
  const auto per_copy = [&](int32_t e) { return static_cast<double>(b.load[e]) / copies[e]; };
  for (;;) {
    int rank = 0;
    for (int r = 1; r < b.plan.num_ranks; ++r) {
      const int more = b.free_slots(r) - b.free_slots(rank);
      if (more > 0 || (more == 0 && shared_load[r] < shared_load[rank])) rank = r;
    }
    if (b.free_slots(rank) == 0) return;
    int32_t best = -1;
    for (int32_t e = 0; e < static_cast<int32_t>(copies.size()); ++e) {
      if (best >= 0 && per_copy(e) <= per_copy(best)) continue;
      if (!b.plan.holds(rank, e)) best = e;
    }
    b.put(rank, std::max(best, 0), 0);  // a rank that holds every expert has to repeat one
    if (best >= 0) shared_load[rank] += static_cast<double>(b.load[best]) / ++copies[best];
  }
}

}  // namespace

LayerPlan start_plan(std::span<const int64_t> load, int num_ranks, int slots_per_rank) {
  Builder b(load, num_ranks, slots_per_rank);
  const int num_redundant = b.plan.num_slots() - static_cast<int>(load.size());
  if (num_redundant >= num_ranks - 1) {
    pack_whole_experts(b, num_redundant);
    pass_surplus_along(b);
    spend_free_slots(b);
  } else {
    pack_even_copies(b, num_redundant);
  }
  return std::move(b.plan);
}

}  // namespace plimsoll
