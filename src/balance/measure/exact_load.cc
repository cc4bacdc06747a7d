#include "balance/measure/exact_load.h"

#include <algorithm>

namespace plimsoll {
namespace {

LevelGraph graph_of(const ReplicaTable& replicas, int num_ranks) {
  LevelGraph graph;
  graph.num_ranks = num_ranks;
  for (size_t e = 0; e + 1 < replicas.begin.size(); ++e) {
    const int copies = replicas.count(static_cast<int>(e));
    if (copies > 1) add_item(graph, &replicas.rank[replicas.begin[e]], copies);
  }
  index_by_rank(graph);
  return graph;
}

}  // namespace

ExactLoad::ExactLoad(const ReplicaTable& replicas,
                     int num_ranks,
                     std::span<const uint8_t> active_ranks)
    : replicas_(replicas),
      is_active_(num_ranks, 1),
      graph_(graph_of(replicas, num_ranks)),
      state_(num_ranks, graph_.num_items, graph_.num_arcs()),
      start_amount_(graph_.num_arcs()),
      start_load_(num_ranks),
      bound_ranks_(num_ranks) {
  if (!active_ranks.empty()) is_active_.assign(active_ranks.begin(), active_ranks.end());
}

void ExactLoad::start_even(std::span<const int64_t> load) {
  std::fill(start_load_.begin(), start_load_.end(), 0);
  int arc = 0;
  for (size_t e = 0; e < load.size(); ++e) {
    const int begin = replicas_.begin[e];
    const int copies = replicas_.count(static_cast<int>(e));
    for (int i = 0; i < copies; ++i) {
      const int64_t share = load[e] / copies + (i < load[e] % copies);
      start_load_[replicas_.rank[begin + i]] += share;
      if (copies > 1) start_amount_[arc++] = share;
    }
  }
}

int64_t ExactLoad::max_load(std::span<const int64_t> load) {
  start_even(load);
  bound_ranks_ = is_active_;
  state_.load = start_load_;
  for (;;) {  // raises the waterline to the load confined to the ranks that overflow
    int64_t confined = 0;
    int64_t num_marked = 0;
    for (int r = 0; r < graph_.num_ranks; ++r) {
      if (bound_ranks_[r]) confined += state_.load[r], ++num_marked;
    }
    const int64_t waterline = (confined + num_marked - 1) / num_marked;
    for (int r = 0; r < graph_.num_ranks; ++r) {
      state_.capacity[r] = is_active_[r] ? waterline : 0;
    }
    state_.load = start_load_;
    state_.amount = start_amount_;
    if (level(graph_, state_)) return waterline;
    for (int r = 0; r < graph_.num_ranks; ++r) {
      bound_ranks_[r] = is_active_[r] && state_.rank_label[r] == kUnreachable;
    }
  }
}

}  // namespace plimsoll
