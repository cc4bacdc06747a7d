#include "engine/rebalance/layer_moves.h"

#include <algorithm>

#include "engine/rebalance/background.h"
#include "ep/stopwatch.h"

namespace plimsoll {

std::span<const int32_t> slots_on(std::span<const int32_t> slots,
                                  int slots_per_rank,
                                  RankBlock ranks) {
  return slots.subspan(static_cast<size_t>(ranks.first) * slots_per_rank,
                       static_cast<size_t>(ranks.count) * slots_per_rank);
}

std::vector<int32_t> experts_on(std::span<const int32_t> slots,
                                int slots_per_rank,
                                RankBlock ranks) {
  const auto here = slots_on(slots, slots_per_rank, ranks);
  std::vector<int32_t> experts(here.begin(), here.end());
  std::ranges::sort(experts);
  experts.erase(std::ranges::unique(experts).begin(), experts.end());
  return experts;
}

void release_others(std::span<const int32_t> needed, std::span<ExpertWeights> held) {
  for (size_t e = 0; e < held.size(); ++e) {
    if (!std::ranges::binary_search(needed, static_cast<int32_t>(e))) held[e] = {};
  }
}

LayerMoves::LayerMoves(const Checkpoint& checkpoint,
                       ModelWeights& weights,
                       MoeLayout& layout,
                       const RouteOptions& route,
                       RankBlock local)
    : checkpoint_(checkpoint), weights_(weights), layout_(layout), route_(route), local_(local) {
  thread_ = std::jthread([this](std::stop_token stop) { serve(stop); });
}

void LayerMoves::prepare(LayerSlots next) {
  Move move{.next = std::move(next)};
  const std::vector<ExpertWeights>& held = weights_.layers[move.next.layer_idx].experts;
  for (int32_t e : experts_on(move.next.slots, layout_.placement.slots_per_rank(), local_)) {
    if (!is_held(held[e])) move.missing.push_back(e);
  }
  {
    const std::lock_guard lock(mutex_);
    todo_.push_back(std::move(move));
  }
  changed_.notify_all();
}

std::vector<MoveReport> LayerMoves::reports(bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) changed_.wait(lock, [&] { return todo_.empty() && busy_with_ < 0; });
  return std::exchange(reports_, {});
}

void LayerMoves::put_in_force(int layer_idx) {
  Move move;
  {
    const std::lock_guard lock(mutex_);
    move = std::move(ready_.extract(layer_idx).mapped());
  }
  switch_layer(layout_, move.layout);
  std::vector<ExpertWeights>& held = weights_.layers[layer_idx].experts;
  for (size_t i = 0; i < move.missing.size(); ++i) {
    held[move.missing[i]] = std::move(move.experts[i]);
  }
  const Placement& placement = layout_.placement;
  release_others(experts_on(placement.layer(layer_idx), placement.slots_per_rank(), local_), held);
}

void LayerMoves::forget(int layer_idx) {
  const std::lock_guard lock(mutex_);
  std::erase_if(todo_, [&](const Move& move) { return move.next.layer_idx == layer_idx; });
  std::erase_if(reports_, [&](const MoveReport& report) { return report.layer_idx == layer_idx; });
  ready_.erase(layer_idx);
  if (busy_with_ == layer_idx) forgotten_ = true;
}

void LayerMoves::serve(std::stop_token stop) {
  step_back();
  while (true) {
    Move move;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [&] { return !todo_.empty(); })) return;
      move = std::move(todo_.front());
      todo_.pop_front();
      busy_with_ = move.next.layer_idx;
      forgotten_ = false;
    }
    MoveReport report{.layer_idx = move.next.layer_idx};
    Stopwatch watch;
    if (Status status = make_ready(move); !status.ok()) report.error = status.error().message;
    watch.lap(report.seconds);
    {
      const std::lock_guard lock(mutex_);
      busy_with_ = -1;
      if (!forgotten_) {
        if (report.error.empty()) ready_.insert_or_assign(report.layer_idx, std::move(move));
        reports_.push_back(std::move(report));
      }
    }
    changed_.notify_all();
  }
}

Status LayerMoves::make_ready(Move& move) const {
  Result<LayerLayout> layout =
      make_layer_layout(layout_.placement, move.next.layer_idx, move.next.slots, route_);
  if (!layout.ok()) return layout.error();
  move.layout = std::move(*layout);
  for (int32_t e : move.missing) {
    Result<ExpertWeights> expert =
        load_expert(checkpoint_, weights_.config, move.next.layer_idx, e);
    if (!expert.ok()) return expert.error();
    move.experts.push_back(std::move(*expert));
  }
  return ok_status();
}

}  // namespace plimsoll
