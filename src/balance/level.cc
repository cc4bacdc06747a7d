// Successive shortest paths with blocking flows, from an assignment to one within the capacities,
// or to a minimum cut. See "As a flow" in docs/balancing.md.
#include "plimsoll/level.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace plimsoll {
namespace {

class Leveller {
 public:
  Leveller(const LevelGraph& graph, LevelState& state) : g_(graph), s_(state) {}

  bool run() {
    while (has_excess()) {
      label();
      if (is_cut_off()) return false;
      push_excess();
    }
    return true;
  }

 private:
  int32_t in_cost(int arc) const { return s_.amount[arc] < s_.local[arc] ? 0 : kHopsPerMessage; }
  int32_t out_cost(int arc) const { return s_.amount[arc] > s_.local[arc] ? -kHopsPerMessage : 0; }
  // How many units can be put down or taken away at the cost of the next one.
  int64_t in_room(int arc) const {
    return s_.amount[arc] < s_.local[arc] ? s_.local[arc] - s_.amount[arc]
                                          : std::numeric_limits<int64_t>::max();
  }
  int64_t out_room(int arc) const {
    return s_.amount[arc] > s_.local[arc] ? s_.amount[arc] - s_.local[arc] : s_.amount[arc];
  }

  bool has_excess() const {
    for (int r = 0; r < g_.num_ranks; ++r) {
      if (s_.load[r] > s_.capacity[r]) return true;
    }
    return false;
  }

  // Once a rank cannot reach room it never will: cheapest paths only get longer.
  bool is_cut_off() const {
    for (int r = 0; r < g_.num_ranks; ++r) {
      if (s_.load[r] > s_.capacity[r] && s_.rank_label[r] == kUnreachable) return true;
    }
    return false;
  }

  // Label-correcting from the ranks with room, backwards; some arcs cost -1, none lie on a negative
  // cycle.
  void label() {
    std::fill(s_.item_label.begin(), s_.item_label.begin() + g_.num_items, kUnreachable);
    queue_head_ = queue_size_ = 0;
    for (int r = 0; r < g_.num_ranks; ++r) {
      const bool has_room = s_.load[r] < s_.capacity[r];
      s_.rank_label[r] = has_room ? 0 : kUnreachable;
      s_.is_queued[r] = 0;
      if (has_room) enqueue(r);
    }
    while (queue_size_ > 0) relax(dequeue());
    std::copy_n(g_.rank_arc_begin.begin(), g_.num_ranks, s_.rank_next_arc.begin());
    std::copy_n(g_.item_begin.begin(), g_.num_items, s_.item_next_arc.begin());
  }

  void relax(int rank) {
    for (int i = g_.rank_arc_begin[rank]; i < g_.rank_arc_begin[rank + 1]; ++i) {
      const int into = g_.rank_arcs[i];
      const int item = g_.arc_item[into];
      const int32_t through = s_.rank_label[rank] + in_cost(into);
      if (through >= s_.item_label[item]) continue;
      s_.item_label[item] = through;
      for (int out = g_.item_begin[item]; out < g_.item_begin[item + 1]; ++out) {
        const int from = g_.arc_rank[out];
        const int32_t label = through + out_cost(out) + 1;
        if (s_.amount[out] == 0 || label >= s_.rank_label[from]) continue;
        s_.rank_label[from] = label;
        if (!s_.is_queued[from]) enqueue(from);
      }
    }
  }

  void enqueue(int rank) {
    s_.is_queued[rank] = 1;
    int tail = queue_head_ + queue_size_++;
    if (tail >= g_.num_ranks) tail -= g_.num_ranks;
    s_.queue[tail] = rank;
  }

  int dequeue() {
    const int rank = s_.queue[queue_head_];
    if (++queue_head_ == g_.num_ranks) queue_head_ = 0;
    --queue_size_;
    s_.is_queued[rank] = 0;
    return rank;
  }

  // Only from the ranks that reach room for the fewest messages: the others may do better later.
  void push_excess() {
    int32_t fewest = std::numeric_limits<int32_t>::max();
    for (int r = 0; r < g_.num_ranks; ++r) {
      if (s_.load[r] > s_.capacity[r]) fewest = std::min(fewest, num_messages(r));
    }
    for (int r = 0; r < g_.num_ranks; ++r) {
      const int64_t excess = s_.load[r] - s_.capacity[r];
      if (excess > 0 && num_messages(r) == fewest) s_.load[r] -= push_from_rank(r, excess);
    }
  }

  // Of a rank's cheapest way to room; the hops make up less than one.
  int32_t num_messages(int rank) const { return s_.rank_label[rank] / kHopsPerMessage; }

  // Sends up to `want` units from the rank along cheapest paths; returns how many went.
  int64_t push_from_rank(int rank, int64_t want) {
    if (s_.rank_label[rank] == 0) {
      const int64_t taken = std::min(want, s_.capacity[rank] - s_.load[rank]);
      s_.load[rank] += taken;
      return taken;
    }
    int64_t sent = 0;
    for (int32_t& i = s_.rank_next_arc[rank]; i < g_.rank_arc_begin[rank + 1]; ++i) {
      const int arc = g_.rank_arcs[i];
      const int item = g_.arc_item[arc];
      if (s_.amount[arc] == 0 || s_.rank_label[rank] != s_.item_label[item] + out_cost(arc) + 1) {
        continue;
      }
      const int64_t got = push_from_item(item, std::min(want - sent, out_room(arc)));
      s_.amount[arc] -= got;
      sent += got;
      if (sent == want) break;
    }
    return sent;
  }

  int64_t push_from_item(int item, int64_t want) {
    int64_t sent = 0;
    for (int32_t& arc = s_.item_next_arc[item]; arc < g_.item_begin[item + 1]; ++arc) {
      const int rank = g_.arc_rank[arc];
      if (s_.item_label[item] != s_.rank_label[rank] + in_cost(arc)) continue;
      const int64_t got = push_from_rank(rank, std::min(want - sent, in_room(arc)));
      s_.amount[arc] += got;
      sent += got;
      if (sent == want) break;
    }
    return sent;
  }

  const LevelGraph& g_;
  LevelState& s_;
  int queue_head_ = 0;
  int queue_size_ = 0;
};

}  // namespace

void add_item(LevelGraph& graph, const int32_t* ranks, int num_ranks) {
  graph.arc_rank.insert(graph.arc_rank.end(), ranks, ranks + num_ranks);
  graph.arc_item.insert(graph.arc_item.end(), num_ranks, graph.num_items++);
  graph.item_begin.push_back(graph.num_arcs());
}

void index_by_rank(LevelGraph& graph) {
  std::vector<int32_t>& begin = graph.rank_arc_begin;
  begin.assign(graph.num_ranks + 1, 0);
  for (const int32_t rank : graph.arc_rank) ++begin[rank + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  graph.rank_arcs.resize(graph.num_arcs());
  std::vector<int32_t> next(begin.begin(), begin.end() - 1);
  for (int arc = 0; arc < graph.num_arcs(); ++arc) {
    graph.rank_arcs[next[graph.arc_rank[arc]]++] = arc;
  }
}

LevelState::LevelState(int num_ranks, int num_items, int num_arcs)
    : amount(num_arcs),
      local(num_arcs),
      load(num_ranks),
      capacity(num_ranks),
      rank_label(num_ranks),
      item_label(num_items),
      rank_next_arc(num_ranks),
      item_next_arc(num_items),
      queue(num_ranks),
      is_queued(num_ranks) {}

bool level(const LevelGraph& graph, LevelState& state) {
  return Leveller(graph, state).run();
}

}  // namespace plimsoll
