#include "balance/plan/even_plan.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include "balance/plan/copy_rings.h"

namespace plimsoll {
namespace {

// Tokens are counted in fractions of this many bits, so that shares add up alike on every machine.
constexpr int kFractionBits = 16;

int64_t share_of(int64_t load, int copies) {
  return (load << kFractionBits) / copies;
}

// Every expert gets a copy; each further one goes where the load per copy is largest, as in EPLB:
// no other way to spend them leaves a lighter heaviest copy.
std::vector<int32_t> spend_copies(std::span<const int64_t> load, int num_slots, int max_copies) {
  std::vector<int32_t> copies(load.size(), 1);
  using Entry = std::pair<int64_t, int32_t>;  // share, minus the expert: the lowest of equals first
  std::priority_queue<Entry> heaviest;
  for (int32_t e = 0; e < std::ssize(load); ++e) heaviest.emplace(share_of(load[e], 1), -e);
  for (int i = static_cast<int>(load.size()); i < num_slots; ++i) {
    const int32_t e = -heaviest.top().second;
    heaviest.pop();
    ++copies[e];
    heaviest.emplace(copies[e] < max_copies ? share_of(load[e], copies[e]) : -copies[e], -e);
  }
  return copies;
}

// Deals copies out one by one, heaviest first, each to the emptiest rank that may have it.
class Dealer {
 public:
  Dealer(LayerPlan& plan, int num_nodes)
      : plan_(plan),
        ranks_per_node_(plan.num_ranks / num_nodes),
        used_(plan.num_ranks, 0),
        rank_load_(plan.num_ranks, 0),
        share_(plan.num_slots(), 0) {}

  // `copies` of expert e, on as many nodes or, where these are too few, on one.
  void deal(int32_t e, int copies, int64_t share) {
    const int num_nodes = plan_.num_ranks / ranks_per_node_;
    const bool on_one_node = num_nodes > 1 && copies > num_nodes;
    node_ = -1;
    is_used_node_.assign(num_nodes, 0);
    for (int i = 0; i < copies; ++i) {
      const int rank = emptiest(e, on_one_node, copies - i);
      if (rank >= 0) {
        put(rank, e, share);
      } else {
        put_anywhere(e, share);
      }
    }
  }

 private:
  bool has_room(int rank) const { return used_[rank] < plan_.slots_per_rank; }

  int emptiest(int32_t e, bool on_one_node, int copies_left) const {
    int best = -1;
    for (int r = 0; r < plan_.num_ranks; ++r) {
      if (!has_room(r) || (best >= 0 && rank_load_[r] >= rank_load_[best])) continue;
      const int node = r / ranks_per_node_;
      const bool may = ranks_per_node_ == plan_.num_ranks ||
                       (on_one_node ? node_ < 0 ? room_on(node) >= copies_left : node == node_
                                    : !is_used_node_[node]);
      if (may && !plan_.holds(r, e)) best = r;
    }
    return best;
  }

  int room_on(int node) const {
    int ranks = 0;
    for (int r = node * ranks_per_node_; r < (node + 1) * ranks_per_node_; ++r)
      ranks += has_room(r);
    return ranks;
  }

  void put(int rank, int32_t e, int64_t share) {
    const int slot = rank * plan_.slots_per_rank + used_[rank]++;
    plan_.expert[slot] = e;
    share_[slot] = share;
    rank_load_[rank] += share;
    node_ = rank / ranks_per_node_;
    is_used_node_[node_] = 1;
  }

  // Where every free slot is on a rank that has e or on a node that should not: another rank gives
  // up an expert to the emptiest of these, and takes the copy instead.
  void put_anywhere(int32_t e, int64_t share) {
    int with_room = -1;
    for (int r = 0; r < plan_.num_ranks; ++r) {
      if (has_room(r) && (with_room < 0 || rank_load_[r] < rank_load_[with_room])) with_room = r;
    }
    if (!plan_.holds(with_room, e)) return put(with_room, e, share);
    for (int slot = 0; slot < plan_.num_slots(); ++slot) {
      const int rank = plan_.rank_of(slot);
      const int32_t other = plan_.expert[slot];
      if (other < 0 || plan_.holds(rank, e) || plan_.holds(with_room, other)) continue;
      put(with_room, other, share_[slot]);
      plan_.expert[slot] = e;
      rank_load_[rank] += share - share_[slot];
      share_[slot] = share;
      return;
    }
    put(with_room, e, share);  // more copies than ranks
  }

  LayerPlan& plan_;
  const int ranks_per_node_;
  std::vector<int32_t> used_;       // [num_ranks], slots taken
  std::vector<int64_t> rank_load_;  // [num_ranks]
  std::vector<int64_t> share_;      // [num_slots]
  int node_ = -1;                   // of the expert's last copy
  std::vector<uint8_t> is_used_node_;
};

// Two slots of a rank, and what they hold together.
struct Pair {
  int64_t share;
  int a;
  int b;
};

class Descent {
 public:
  Descent(LayerPlan& plan, std::span<const int64_t> load, const EvenGoal& goal)
      : plan_(plan),
        load_(load),
        rings_(plan, static_cast<int>(load.size())),
        ranks_per_node_(plan.num_ranks / goal.num_nodes),
        enough_(static_cast<int64_t>(goal.enough * (1 << kFractionBits))),
        share_(plan.num_slots()),
        rank_load_(plan.num_ranks, 0) {
    for (int slot = 0; slot < plan.num_slots(); ++slot) {
      share_[slot] = share_of(load[plan.expert[slot]], rings_.count(plan.expert[slot]));
      rank_load_[plan.rank_of(slot)] += share_[slot];
    }
  }

  // What an exchange of copies is foretold to do and what it does may differ, so that the search
  // can go in a circle: it ends after a number of rounds that a descent does not need.
  double run() {
    const int max_rounds = 64 + 8 * plan_.num_slots();
    for (int round = 0; round < max_rounds; ++round) {
      fullest_ = static_cast<int>(std::max_element(rank_load_.begin(), rank_load_.end()) -
                                  rank_load_.begin());
      if (rank_load_[fullest_] <= enough_) break;
      if (!exchange_one() && !exchange_copies() && !exchange_two()) break;
    }
    return static_cast<double>(rank_load_[fullest_]) / (1 << kFractionBits);
  }

 private:
  int begin_of(int rank) const { return rank * plan_.slots_per_rank; }
  int end_of(int rank) const { return begin_of(rank + 1); }
  int node_of(int slot) const { return plan_.rank_of(slot) / ranks_per_node_; }

  // Whether expert e, its copy in `except` aside, may have one where slot `to` is: not on a rank
  // that has one, and on a node of its own or on the node of all.
  bool may_hold(int32_t e, int to, int except) const {
    int num_others = 0;
    int num_here = 0;
    int node = -1;  // of all others; -2: they are on several
    const int first = rings_.some_slot(e);
    int slot = first;
    do {
      if (slot != except) {
        if (plan_.rank_of(slot) == plan_.rank_of(to)) return false;
        ++num_others;
        num_here += node_of(slot) == node_of(to);
        node = num_others == 1 || node == node_of(slot) ? node_of(slot) : -2;
      }
      slot = rings_.next(slot);
    } while (slot != first);
    if (num_here == num_others) return true;
    return num_here == 0 && (num_others == 1 || node == -2);
  }

  bool may_exchange(int a, int b) const {
    return plan_.expert[a] != plan_.expert[b] && may_hold(plan_.expert[a], b, a) &&
           may_hold(plan_.expert[b], a, b);
  }

  void set(int slot, int32_t e) {
    rings_.remove(slot, plan_.expert[slot]);
    rings_.insert(slot, e);
    plan_.expert[slot] = e;
  }

  void exchange(int a, int b) {
    const int32_t e = plan_.expert[a];
    const int32_t other = plan_.expert[b];
    rings_.remove(a, e);
    rings_.remove(b, other);
    rings_.insert(a, other);
    rings_.insert(b, e);
    std::swap(plan_.expert[a], plan_.expert[b]);
    rank_load_[plan_.rank_of(a)] += share_[b] - share_[a];
    rank_load_[plan_.rank_of(b)] += share_[a] - share_[b];
    std::swap(share_[a], share_[b]);
  }

  // The exchange of one expert of the fullest rank that leaves the fuller of the two least full.
  bool exchange_one() {
    int64_t best = rank_load_[fullest_];
    int best_a = -1;
    int best_b = -1;
    for (int rank = 0; rank < plan_.num_ranks; ++rank) {
      const int64_t room = rank_load_[fullest_] - rank_load_[rank];
      if (rank == fullest_ || room < 2) continue;
      for (int a = begin_of(fullest_); a < end_of(fullest_); ++a) {
        for (int b = begin_of(rank); b < end_of(rank); ++b) {
          const int64_t moved = share_[a] - share_[b];
          if (moved <= 0 || moved >= room) continue;
          const int64_t fuller = std::max(rank_load_[fullest_] - moved, rank_load_[rank] + moved);
          if (fuller >= best || !may_exchange(a, b)) continue;
          best = fuller, best_a = a, best_b = b;
        }
      }
    }
    if (best_a < 0) return false;
    exchange(best_a, best_b);
    return true;
  }

  void list_pairs(int rank, std::vector<Pair>& pairs) const {
    pairs.clear();
    for (int a = begin_of(rank); a < end_of(rank); ++a) {
      for (int b = a + 1; b < end_of(rank); ++b) pairs.push_back({share_[a] + share_[b], a, b});
    }
    std::sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) {
      return x.share != y.share ? x.share < y.share : x.a != y.a ? x.a < y.a : x.b < y.b;
    });
  }

  // The same with two experts for two.
  bool exchange_two() {
    if (plan_.slots_per_rank < 3) return false;
    list_pairs(fullest_, from_);
    int64_t best = rank_load_[fullest_];
    Pair give{};
    Pair take{};
    for (int rank = 0; rank < plan_.num_ranks; ++rank) {
      const int64_t room = rank_load_[fullest_] - rank_load_[rank];
      if (rank == fullest_ || room < 2) continue;
      list_pairs(rank, to_);
      for (const Pair& pair : from_) {
        auto near = std::partition_point(to_.begin(), to_.end(), [&](const Pair& other) {
          return pair.share - other.share > room / 2;
        });
        for (int i = 0; i < 2; ++i) {  // the nearest on either side of half the difference
          if (near != to_.end()) {
            const int64_t moved = pair.share - near->share;
            const int64_t fuller = std::max(rank_load_[fullest_] - moved, rank_load_[rank] + moved);
            if (fuller < best && may_exchange(pair.a, near->a) && may_exchange(pair.b, near->b)) {
              best = fuller, give = pair, take = *near;
            }
          }
          if (near == to_.begin()) break;
          --near;
        }
      }
    }
    if (best >= rank_load_[fullest_]) return false;
    exchange(give.a, take.a);
    exchange(give.b, take.b);
    return true;
  }

  // Of the ranks that feel it, the load of the fullest, if `slot` gave up its copy, one of several,
  // for one of expert e.
  int64_t fullest_after_copy(int slot, int32_t e) const {
    const int32_t given_up = plan_.expert[slot];
    const int copies = rings_.count(e);
    const int64_t less = share_of(load_[e], copies) - share_of(load_[e], copies + 1);
    const int64_t more = share_of(load_[given_up], rings_.count(given_up) - 1) - share_[slot];
    int64_t fullest =
        rank_load_[plan_.rank_of(slot)] - share_[slot] + share_of(load_[e], copies + 1);
    for (int s = rings_.next(slot); s != slot; s = rings_.next(s)) {
      const int rank = plan_.rank_of(s);
      fullest = std::max(fullest, rank_load_[rank] + more - (plan_.holds(rank, e) ? less : 0));
    }
    if (plan_.rank_of(slot) != fullest_ && !plan_.holds(fullest_, given_up)) {
      fullest = std::max(fullest, rank_load_[fullest_] - (plan_.holds(fullest_, e) ? less : 0));
    }
    return fullest;
  }

  // Either an expert of the fullest rank gets one copy more elsewhere, or the fullest rank gives up
  // a copy for one of a lighter expert.
  bool exchange_copies() {
    int64_t best = rank_load_[fullest_];
    int best_slot = -1;
    int32_t best_expert = -1;
    const auto offer = [&](int slot, int32_t e) {
      if (rings_.count(plan_.expert[slot]) == 1 || plan_.expert[slot] == e) return;
      const int64_t after = fullest_after_copy(slot, e);
      if (after >= best || !may_hold(e, slot, -1)) return;
      best = after, best_slot = slot, best_expert = e;
    };
    for (int slot = 0; slot < plan_.num_slots(); ++slot) {
      if (plan_.rank_of(slot) == fullest_) continue;
      for (int a = begin_of(fullest_); a < end_of(fullest_); ++a) offer(slot, plan_.expert[a]);
    }
    for (int slot = begin_of(fullest_); slot < end_of(fullest_); ++slot) {
      for (int32_t e = 0; e < std::ssize(load_); ++e) offer(slot, e);
    }
    if (best_slot < 0) return false;
    copy_to(best_slot, best_expert);
    return true;
  }

  void copy_to(int slot, int32_t e) {
    const int32_t given_up = plan_.expert[slot];
    set(slot, e);
    for (const int32_t changed : {given_up, e}) {
      const int64_t share = share_of(load_[changed], rings_.count(changed));
      const int first = rings_.some_slot(changed);
      int s = first;
      do {
        rank_load_[plan_.rank_of(s)] += share - share_[s];
        share_[s] = share;
        s = rings_.next(s);
      } while (s != first);
    }
  }

  LayerPlan& plan_;
  const std::span<const int64_t> load_;
  CopyRings rings_;
  const int ranks_per_node_;
  const int64_t enough_;
  std::vector<int64_t> share_;      // [num_slots]
  std::vector<int64_t> rank_load_;  // [num_ranks]
  int fullest_ = 0;
  std::vector<Pair> from_;
  std::vector<Pair> to_;
};

}  // namespace

LayerPlan make_even_plan(std::span<const int64_t> load,
                         int num_ranks,
                         int slots_per_rank,
                         const EvenGoal& goal) {
  LayerPlan plan{num_ranks, slots_per_rank,
                 std::vector<int32_t>(static_cast<size_t>(num_ranks) * slots_per_rank, -1)};
  const int ranks_per_node = num_ranks / goal.num_nodes;
  const std::vector<int32_t> copies =
      spend_copies(load, plan.num_slots(),
                   goal.num_nodes == 1 ? num_ranks : std::max(goal.num_nodes, ranks_per_node));
  std::vector<int32_t> order(load.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return share_of(load[a], copies[a]) > share_of(load[b], copies[b]);
  });
  Dealer dealer(plan, goal.num_nodes);
  for (const int32_t e : order) dealer.deal(e, copies[e], share_of(load[e], copies[e]));
  improve_even_plan(plan, load, goal);
  return plan;
}

double improve_even_plan(LayerPlan& plan, std::span<const int64_t> load, const EvenGoal& goal) {
  return Descent(plan, load, goal).run();
}

}  // namespace plimsoll
