#include "engine/ranks/local_ranks.h"

#include <algorithm>

namespace plimsoll {

LocalRanks::LocalRanks(ModelWeights weights,
                       std::unique_ptr<gpu::PackedModel> model,
                       MoeLayout& layout,
                       const MoeOptions& options,
                       Recorder* recorder,
                       bool pin_ranks,
                       std::optional<ProcessParts> processes)
    : weights_(std::move(weights)),
      model_(std::move(model)),
      layout_(layout),
      options_(options),
      recorder_(recorder),
      pin_ranks_(pin_ranks),
      processes_(std::move(processes)) {
  start();
}

void LocalRanks::start() {
  ProcessGroup* const group = processes_ ? processes_->group.get() : nullptr;
  if (group != nullptr) {
    moves_.emplace(processes_->checkpoint, weights_, layout_, options_.route, group->local());
  }
  team_.emplace(weights_, model_.get(), layout_, options_, recorder_, pin_ranks_, group);
}

Status LocalRanks::restart(const Regroup& regroup) {
  moves_.reset();
  team_.reset();
  for (int p : group().members()) {
    if (std::ranges::find(regroup.members, p) != regroup.members.end() || !mesh().alive(p))
      continue;
    mesh().bury(p, "was given up by process 0");
  }
  group().restart(regroup.epoch, {regroup.members.begin(), regroup.members.end()});
  Placement placement = layout_.placement;
  placement.num_ranks = group().num_ranks();
  placement.num_physical_experts = regroup.num_physical_experts;
  placement.physical_to_logical = regroup.physical_to_logical;
  Result<MoeLayout> layout = make_moe_layout(placement, options_.route);
  if (!layout.ok()) return layout.error();
  layout_ = std::move(*layout);
  if (Status status = load_missing(); !status.ok()) return status;
  start();
  return ok_status();
}

// Experts that ranks here have slots for and no others are held then.
Status LocalRanks::load_missing() {
  const Placement& placement = layout_.placement;
  for (int l = 0; l < placement.num_layers; ++l) {
    std::vector<ExpertWeights>& held = weights_.layers[l].experts;
    const std::vector<int32_t> needed =
        experts_on(placement.layer(l), placement.slots_per_rank(), group().local());
    release_others(needed, held);
    for (int32_t e : needed) {
      if (is_held(held[e])) continue;
      Result<ExpertWeights> expert = load_expert(processes_->checkpoint, weights_.config, l, e);
      if (!expert.ok()) return expert.error();
      held[e] = std::move(*expert);
    }
  }
  return ok_status();
}

}  // namespace plimsoll
