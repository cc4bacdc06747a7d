// From the graph of items and ranks, once for a placement: the response of a network of equal
// resistors (a pseudo-inverse of the graph's Laplacian, in fixed point) and spanning trees of the
// ranks that share experts. See "Where the flow starts" in docs/balancing.md.
#include <algorithm>
#include <cmath>
#include <vector>

#include "balance/route/local_start.h"

namespace plimsoll {
namespace {

// Visits a rank and all that it reaches through items not met yet; `parent_out`, `parent_in`: the
// arcs by which units go to its parent.
class TreeWalk {
 public:
  TreeWalk(const LevelGraph& g, int first_item, SpreadTables& s)
      : g_(g), first_item_(first_item), s_(s) {
    s_.rank.resize(g.num_ranks);
    for (auto* places : {&s_.subtree_end, &s_.tree_begin, &s_.tree_end}) {
      places->resize(g.num_ranks);
    }
    s_.arc_out.assign(g.num_ranks, -1);
    s_.arc_in.assign(g.num_ranks, -1);
  }

  void run() {
    find_parents();
    list_children();
    for (int r = 0; r < g_.num_ranks; ++r) {
      if (out_of_rank_[r] >= 0) continue;
      const int begin = num_placed_;
      place(r);
      for (int p = begin; p < num_placed_; ++p) {
        s_.tree_begin[p] = begin;
        s_.tree_end[p] = num_placed_;
      }
    }
  }

 private:
  // Breadth first, so that ways are short.
  void find_parents() {
    out_of_rank_.assign(g_.num_ranks, -1);
    in_of_rank_.assign(g_.num_ranks, -1);
    std::vector<uint8_t> is_met(g_.num_ranks, 0);
    std::vector<uint8_t> is_item_met(g_.num_items, 0);
    std::vector<int> queue;
    for (int root = 0; root < g_.num_ranks; ++root) {
      if (is_met[root]) continue;
      is_met[root] = 1;
      queue.assign(1, root);
      for (size_t i = 0; i < queue.size(); ++i) {
        const int r = queue[i];
        for (int j = g_.rank_arc_begin[r]; j < g_.rank_arc_begin[r + 1]; ++j) {
          const int in = g_.rank_arcs[j];
          const int item = g_.arc_item[in];
          if (item < first_item_ || is_item_met[item]) continue;
          if (g_.item_begin[item + 1] - g_.item_begin[item] == g_.num_ranks) continue;
          is_item_met[item] = 1;
          for (int out = g_.item_begin[item]; out < g_.item_begin[item + 1]; ++out) {
            const int child = g_.arc_rank[out];
            if (is_met[child]) continue;
            is_met[child] = 1;
            out_of_rank_[child] = out;
            in_of_rank_[child] = in;
            queue.push_back(child);
          }
        }
      }
    }
  }

  void list_children() {
    children_.resize(g_.num_ranks);
    for (int child = 0; child < g_.num_ranks; ++child) {
      const int in = in_of_rank_[child];
      if (in >= 0) children_[g_.arc_rank[in]].push_back(child);
    }
  }

  void place(int rank) {
    const int at = num_placed_++;
    s_.rank[at] = rank;
    s_.arc_out[at] = out_of_rank_[rank];
    s_.arc_in[at] = in_of_rank_[rank];
    for (const int child : children_[rank]) place(child);
    s_.subtree_end[at] = num_placed_;
  }

  const LevelGraph& g_;
  const int first_item_;
  SpreadTables& s_;
  std::vector<int> out_of_rank_, in_of_rank_;
  std::vector<std::vector<int>> children_;
  int num_placed_ = 0;
};

// The inverse of the network's Laplacian on every tree, by Gauss and Jordan; a current of one
// through every tree's ranks together makes it regular. Symmetric but for rounding.
std::vector<double> potentials_of_currents(const LevelGraph& g,
                                           int first_item,
                                           const SpreadTables& s) {
  const int n = g.num_ranks;
  std::vector<double> a(static_cast<size_t>(n) * n, 0.0);
  for (int i = first_item; i < g.num_items; ++i) {
    const int begin = g.item_begin[i];
    const int copies = g.item_begin[i + 1] - begin;
    if (copies == n) continue;  // all its units are at home
    for (int p = begin; p < begin + copies; ++p) {
      a[g.arc_rank[p] * n + g.arc_rank[p]] += 1.0;
      for (int q = begin; q < begin + copies; ++q) {
        a[g.arc_rank[p] * n + g.arc_rank[q]] -= 1.0 / copies;
      }
    }
  }
  const auto add_to_trees = [&](std::vector<double>& matrix, double sign) {
    for (int p = 0; p < n; ++p) {
      for (int q = s.tree_begin[p]; q < s.tree_end[p]; ++q) {
        matrix[s.rank[p] * n + s.rank[q]] += sign / (s.tree_end[p] - s.tree_begin[p]);
      }
    }
  };
  add_to_trees(a, 1.0);
  std::vector<double> inverse(a.size(), 0.0);
  for (int r = 0; r < n; ++r) inverse[r * n + r] = 1.0;
  for (int pivot = 0; pivot < n; ++pivot) {
    const double scale = 1.0 / a[pivot * n + pivot];
    for (int c = 0; c < n; ++c) a[pivot * n + c] *= scale, inverse[pivot * n + c] *= scale;
    for (int r = 0; r < n; ++r) {
      const double factor = a[r * n + pivot];
      if (r == pivot || factor == 0.0) continue;
      for (int c = 0; c < n; ++c) {
        a[r * n + c] -= factor * a[pivot * n + c];
        inverse[r * n + c] -= factor * inverse[pivot * n + c];
      }
    }
  }
  add_to_trees(inverse, -1.0);
  return inverse;
}

}  // namespace

SpreadTables make_spread_tables(const LevelGraph& graph, int first_item) {
  SpreadTables s;
  TreeWalk(graph, first_item, s).run();
  if (graph.num_ranks > kMaxResponseRanks) return s;
  const std::vector<double> potential = potentials_of_currents(graph, first_item, s);
  const int n = graph.num_ranks;
  for (int r = 0; r < n; ++r) {
    for (int q = 0; q < n; ++q) {
      const double both = potential[r * n + q] + potential[q * n + r];
      s.response.push_back(static_cast<int32_t>(std::lround(both / 2 * (1 << kResponseBits))));
    }
  }
  return s;
}

}  // namespace plimsoll
