#include "balance/jit/chooser.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "balance/route/waterline.h"

namespace plimsoll {
namespace {

int32_t root(const JitWorkspace& w, int32_t rank) {
  while (w.group[rank] != rank) rank = w.group[rank];
  return rank;
}

// The lower rank stands for both groups.
void unite(JitWorkspace& w, int32_t a, int32_t b) {
  a = root(w, a);
  b = root(w, b);
  w.group[std::max(a, b)] = std::min(a, b);
}

// The flow without copies: experts with one copy are fixed, the others begin in equal shares.
void start_flow(const JitTables& t, JitWorkspace& w) {
  const RouteTables& standing = t.standing;
  LevelGraph& g = w.graph;
  g.num_items = 0;
  g.item_begin.resize(1);
  g.arc_rank.clear();
  g.arc_item.clear();
  w.item_expert.clear();
  std::ranges::fill(w.fixed_load, 0);
  std::ranges::fill(w.level.load, 0);
  for (int e = 0; e < standing.num_experts; ++e) {
    const int begin = standing.replicas.begin[e];
    const int num_copies = standing.replicas.count(e);
    const int64_t total = w.route.expert_total[e];
    w.expert_item[e] = -1;
    if (num_copies == 1) {
      w.fixed_load[standing.replicas.rank[begin]] += total;
      continue;
    }
    w.expert_item[e] = g.num_items;
    w.item_expert.push_back(e);
    for (int i = 0; i < num_copies; ++i) {
      const int64_t share = total / num_copies + (i < total % num_copies);
      w.level.amount[g.num_arcs() + i] = share;
      w.level.load[standing.replicas.rank[begin + i]] += share;
    }
    add_item(g, &standing.replicas.rank[begin], num_copies);
  }
  index_by_rank(g);
  for (int r = 0; r < standing.num_ranks; ++r) w.level.load[r] += w.fixed_load[r];
  std::ranges::fill(w.spare_used, 0);
  w.copies.clear();
}

// Levels as far as can be, and marks the ranks that cannot pass on what they hold too much.
void settle(JitWorkspace& w) {
  std::ranges::copy(w.capacity, w.level.capacity.begin());
  std::ranges::fill(w.closed, 0);
  while (!level(w.graph, w.level)) {
    for (size_t r = 0; r < w.closed.size(); ++r) {
      if (w.level.rank_label[r] != kUnreachable) continue;
      w.closed[r] = 1;
      w.level.capacity[r] = std::max(w.capacity[r], w.level.load[r]);
    }
  }
}

// Closed ranks that share experts form a group; sums up what each has too much.
void make_groups(JitWorkspace& w) {
  const LevelGraph& g = w.graph;
  std::iota(w.group.begin(), w.group.end(), 0);
  for (int item = 0; item < g.num_items; ++item) {
    int32_t first = -1;
    for (int arc = g.item_begin[item]; arc < g.item_begin[item + 1]; ++arc) {
      if (!w.closed[g.arc_rank[arc]]) continue;
      if (first >= 0) unite(w, first, g.arc_rank[arc]);
      first = g.arc_rank[arc];
    }
  }
  std::ranges::fill(w.group_excess, 0);
  for (int32_t r = 0; r < static_cast<int32_t>(w.group.size()); ++r) {
    w.group[r] = root(w, r);
    if (w.closed[r]) w.group_excess[w.group[r]] += w.level.load[r] - w.capacity[r];
  }
}

// The load of an expert on the ranks of a group.
int64_t load_in_group(const JitWorkspace& w, int32_t expert, int32_t group) {
  const int item = w.expert_item[expert];
  if (item < 0) return w.route.expert_total[expert];
  int64_t load = 0;
  for (int arc = w.graph.item_begin[item]; arc < w.graph.item_begin[item + 1]; ++arc) {
    if (w.group[w.graph.arc_rank[arc]] == group) load += w.level.amount[arc];
  }
  return load;
}

// The first rank of the group that holds the expert in the standing placement.
int32_t first_holder(const JitTables& t, const JitWorkspace& w, int32_t expert, int32_t group) {
  int32_t i = t.standing.replicas.begin[expert];
  while (w.group[t.standing.replicas.rank[i]] != group) ++i;
  return t.standing.replicas.rank[i];
}

// Calls see(expert, load) for every expert whose load lies in the group of closed ranks.
template <typename See>
void for_each_expert(const JitTables& t, const JitWorkspace& w, int32_t group, See see) {
  for (int32_t r = group; r < t.standing.num_ranks; ++r) {
    if (w.group[r] != group) continue;
    for (int i = t.rank_begin[r]; i < t.rank_begin[r + 1]; ++i) {
      const int32_t e = t.rank_experts[i];
      if (first_holder(t, w, e, group) == r) see(e, load_in_group(w, e, group));
    }
  }
}

int64_t excess(const JitWorkspace& w, int32_t rank) {
  return w.level.load[rank] - w.capacity[rank];
}

// The rank furthest above its capacity that a copy may yet help; -1: there is none.
int32_t fullest_rank(const JitWorkspace& w) {
  int32_t fullest = -1;
  for (int32_t r = 0; r < static_cast<int32_t>(w.closed.size()); ++r) {
    if (excess(w, r) <= 0 || w.given_up[r]) continue;
    if (fullest < 0 || excess(w, r) > excess(w, fullest)) fullest = r;
  }
  return fullest;
}

int domain(const JitTables& t, int32_t rank) {
  return t.options.ranks_per_domain == 0 ? 0 : rank / t.options.ranks_per_domain;
}

// The rank to copy to: one that takes all of `load`, in the sender's domain if one does, and of
// those the emptiest, or with best fit the fullest; else the one with most room. -1: none has any.
int32_t best_receiver(
    const JitTables& t, const JitWorkspace& w, Fit fit, int32_t from, int64_t load) {
  int32_t best = -1;
  bool best_ends = false, best_near = false;
  int64_t best_room = 0;
  for (int32_t r = 0; r < t.standing.num_ranks; ++r) {
    const int64_t room = -excess(w, r);
    if (room <= 0 || w.spare_used[r] == t.options.slots_per_rank) continue;
    const bool ends = room >= load;
    const bool near = domain(t, r) == domain(t, from);
    const bool better = best < 0                    ? true
                        : ends != best_ends         ? ends
                        : near != best_near         ? near
                        : ends && fit == Fit::kBest ? room < best_room
                                                    : room > best_room;
    if (better) best = r, best_ends = ends, best_near = near, best_room = room;
  }
  return best;
}

// Calls see(expert, load) for every expert with its load on the rank.
template <typename See>
void for_each_expert_of(const JitTables& t, const JitWorkspace& w, int32_t rank, See see) {
  for (int i = t.rank_begin[rank]; i < t.rank_begin[rank + 1]; ++i) {
    const int32_t e = t.rank_experts[i];
    if (w.expert_item[e] < 0) see(e, int64_t{w.route.expert_total[e]});
  }
  for (int i = w.graph.rank_arc_begin[rank]; i < w.graph.rank_arc_begin[rank + 1]; ++i) {
    const int32_t arc = w.graph.rank_arcs[i];
    see(w.item_expert[w.graph.arc_item[arc]], w.level.amount[arc]);
  }
}

int64_t largest_load(const JitTables& t, const JitWorkspace& w, int32_t rank) {
  int64_t largest = 0;
  for_each_expert_of(t, w, rank, [&](int, int64_t load) { largest = std::max(largest, load); });
  return largest;
}

// The expert to copy: among those that can bring all that is wanted the one that the receiver's own
// tokens choose most, else the largest.
int32_t best_expert(const JitTables& t,
                    const JitWorkspace& w,
                    std::span<const int32_t> counts,
                    int32_t from,
                    int32_t to,
                    int64_t wanted) {
  const int32_t* own = &counts[static_cast<size_t>(to) * t.standing.num_experts];
  int32_t best = -1;
  int64_t best_brings = 0;
  for_each_expert_of(t, w, from, [&](int e, int64_t load) {
    const int64_t brings = std::min(load, wanted);
    if (brings > best_brings || (brings > 0 && brings == best_brings && own[e] > own[best])) {
      best = e;
      best_brings = brings;
    }
  });
  return best;
}

// Gives the rank a copy of the expert: one more arc of its item.
void add_copy(const JitTables& t, JitWorkspace& w, int32_t expert, int32_t rank) {
  LevelGraph& g = w.graph;
  const ReplicaTable& replicas = t.standing.replicas;
  const int begin = replicas.begin[expert];
  int32_t from = replicas.rank[begin];
  for (int i = replicas.count(expert) - 1; i >= 0; --i) {
    if (domain(t, replicas.rank[begin + i]) == domain(t, rank)) from = replicas.rank[begin + i];
  }
  const int32_t slot = rank * t.slots_per_rank() + t.standing_slots_per_rank + w.spare_used[rank]++;
  w.copies.push_back({expert, from, rank, slot});

  if (w.expert_item[expert] < 0) {  // what was fixed at home becomes an item
    const int32_t home = replicas.rank[begin];
    const int64_t total = w.route.expert_total[expert];
    w.expert_item[expert] = g.num_items;
    w.item_expert.push_back(expert);
    w.fixed_load[home] -= total;
    const int32_t ranks[2] = {std::min(home, rank), std::max(home, rank)};
    w.level.amount[g.num_arcs() + (home > rank)] = total;
    w.level.amount[g.num_arcs() + (home < rank)] = 0;
    add_item(g, ranks, 2);
  } else {
    const int item = w.expert_item[expert];
    int at = g.item_begin[item];
    while (at < g.item_begin[item + 1] && g.arc_rank[at] < rank) ++at;
    std::copy_backward(w.level.amount.begin() + at, w.level.amount.begin() + g.num_arcs(),
                       w.level.amount.begin() + g.num_arcs() + 1);
    w.level.amount[at] = 0;
    g.arc_rank.insert(g.arc_rank.begin() + at, rank);
    g.arc_item.insert(g.arc_item.begin() + at, item);
    for (int i = item + 1; i <= g.num_items; ++i) ++g.item_begin[i];
  }
  index_by_rank(g);
}

// The least number of the largest values that add up to `amount`; more than there are if none does.
int32_t fewest_of(std::vector<int64_t>& values, int64_t amount) {
  std::ranges::make_heap(values);
  auto end = values.end();
  int32_t k = 0;
  for (; amount > 0 && end != values.begin(); ++k) {
    std::pop_heap(values.begin(), end);
    amount -= *--end;
  }
  return amount > 0 ? k + 1 : k;
}

}  // namespace

void open_choice(const JitTables& t, int64_t waterline, JitWorkspace& w) {
  start_flow(t, w);
  for (int r = 0; r < t.standing.num_ranks; ++r) {
    w.capacity[r] = room_under(w.route, r, std::max(waterline, w.route.offset[r]));
  }
  settle(w);
}

int32_t fewest_copies(const JitTables& t, JitWorkspace& w) {
  make_groups(w);
  const auto list_rooms = [&](auto may_receive) {
    w.rooms.clear();
    for (int32_t r = 0; r < t.standing.num_ranks; ++r) {
      if (may_receive(r)) w.rooms.push_back(std::max<int64_t>(w.capacity[r] - w.fixed_load[r], 0));
    }
  };
  int32_t apart = 0;  // what every group needs by itself
  int64_t excess = 0;
  for (int32_t r = 0; r < t.standing.num_ranks; ++r) {
    if (!w.closed[r] || w.group[r] != r || w.group_excess[r] == 0) continue;
    excess += w.group_excess[r];
    w.sizes.clear();
    for_each_expert(t, w, r, [&](int, int64_t load) { w.sizes.push_back(load); });
    list_rooms([&](int32_t rank) { return w.group[rank] != r; });
    apart += std::max(fewest_of(w.sizes, w.group_excess[r]), fewest_of(w.rooms, w.group_excess[r]));
  }
  list_rooms([&](int32_t rank) { return !w.closed[rank]; });
  return std::max(apart, fewest_of(w.rooms, excess));
}

bool choose_copies(const JitTables& t, std::span<const int32_t> counts, Fit fit, JitWorkspace& w) {
  std::ranges::fill(w.given_up, 0);
  for (int32_t from = fullest_rank(w); from >= 0; from = fullest_rank(w)) {
    const int64_t movable = std::min(excess(w, from), largest_load(t, w, from));
    const int32_t to = best_receiver(t, w, fit, from, movable);
    const int64_t wanted = to < 0 ? 0 : std::min(excess(w, from), -excess(w, to));
    if (std::min(wanted, movable) < t.options.min_tokens) {
      w.given_up[from] = 1;
      continue;
    }
    add_copy(t, w, best_expert(t, w, counts, from, to, wanted), to);
    settle(w);
  }
  return std::ranges::none_of(w.given_up, [](uint8_t is) { return is != 0; });
}

}  // namespace plimsoll
