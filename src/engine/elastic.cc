// Engine, where processes have died: the others go on.
#include <algorithm>

#include "engine/engine.h"
#include "engine/rebalance/survivors.h"
#include "ep/stopwatch.h"

namespace plimsoll {
namespace {

// Fewer ranks hold fewer tokens of a low-latency step.
SchedulerLimits limits_of(SchedulerLimits limits, int num_ranks) {
  limits.num_ranks = num_ranks;
  if (limits.mode != DeepepMode::kNormal) {
    limits.max_running_requests =
        std::min(limits.max_running_requests, limits.max_dispatch_tokens_per_rank * num_ranks);
  }
  return limits;
}

// Whom the others hold dead is dead, in their order; but the word of the dead does not count.
void bury_accused(ProcessMesh& mesh, const std::vector<Accusation>& accusations) {
  for (const Accusation& accusation : accusations) {
    if (accusation.process == mesh.process() || !mesh.alive(accusation.by)) continue;
    if (mesh.alive(accusation.process)) mesh.bury(accusation.process, accusation.reason);
  }
}

}  // namespace

Result<Regroup> Engine::regroup() const {
  Regroup next{.epoch = epoch_};
  SurvivorTask task{.in_force = placement(), .load = load_, .algorithm = eplb_algorithm_};
  for (int p : ranks_.group().members()) {
    if (!mesh_->alive(p)) continue;
    next.members.push_back(p);
    const RankBlock block = ranks_.group().block(p);
    for (int i = 0; i < block.count; ++i) task.living.push_back(block.first + i);
  }
  const bool any_load = std::ranges::any_of(load_.counts, [](int64_t n) { return n > 0; });
  if (!any_load) std::ranges::fill(task.load.counts, 1);
  Result<Placement> placement = place_on_survivors(task);
  if (!placement.ok()) return placement.error();
  next.num_physical_experts = placement->num_physical_experts;
  next.physical_to_logical = std::move(placement->physical_to_logical);
  return next;
}

Status Engine::go_on_without_the_dead(const Status& failure, Outcome outcome) {
  Stopwatch watch;
  Status why = failure;
  const std::vector<int> before = ranks_.group().members();
  const auto is_dead = [&](int p) { return !mesh_->alive(p); };
  size_t num_dead = 0;
  do {
    bury_accused(*mesh_, outcome.dead);
    const auto dead_now = static_cast<size_t>(std::ranges::count_if(before, is_dead));
    if (dead_now == num_dead) return why;  // nobody more has died: something else is wrong
    num_dead = dead_now;
    ++epoch_;
    Result<Regroup> next = regroup();
    if (!next.ok()) return next.error();
    why = lead_restart(ranks_, *next, outcome);
  } while (!why.ok());

  const int num_running = scheduler_.num_running();
  scheduler_.restart(limits_of(setup_.limits, ranks_.num_ranks()));
  bringing_.clear();
  layer_orders_ = {};
  if (recorder_) recorder_->drop_pass();
  if (rebalancer_) rebalancer_->abandon_turn();
  ++elastic_stats_.num_restarts;
  double seconds = 0;
  watch.lap(seconds);
  elastic_stats_.restart_seconds += seconds;
  for (int p : before) {
    if (is_dead(p)) news_.push_back(mesh_->death(p).message);
  }
  news_.push_back(std::to_string(ranks_.num_ranks()) + " ranks go on after " +
                  std::to_string(static_cast<int>(seconds * 1e3)) + " ms; " +
                  std::to_string(num_running) + " requests are computed again");
  return ok_status();
}

}  // namespace plimsoll
