#include "engine/placement_source.h"

#include "plimsoll/expert_location.h"
#include "plimsoll/layers.h"
#include "plimsoll/plan.h"

namespace plimsoll {
namespace {

Result<ChosenPlacement> from_trivial(const EngineOptions& options, const ModelConfig& config) {
  Result<Placement> placement =
      trivial_placement(config.num_hidden_layers, config.n_routed_experts,
                        options.ep_num_redundant_experts, options.ep_size);
  if (!placement.ok()) return placement.error();
  return ChosenPlacement{std::move(*placement), "trivial", {}};
}

// A map says by itself how many slots there are; the flag, where given, must agree.
Result<ChosenPlacement> from_map(const ExpertMap& map,
                                 const EngineOptions& options,
                                 const ModelConfig& config) {
  Result<Placement> placement =
      make_placement(map, config.num_hidden_layers, config.n_routed_experts, options.ep_size);
  if (!placement.ok()) return placement.error();
  const int num_redundant = placement->num_redundant_experts();
  if (options.ep_num_redundant_experts != 0 && options.ep_num_redundant_experts != num_redundant) {
    return invalid_argument("the placement of --init-expert-location has " +
                            std::to_string(num_redundant) +
                            " redundant experts, but --ep-num-redundant-experts is " +
                            std::to_string(options.ep_num_redundant_experts) +
                            "; drop that flag or set it to " + std::to_string(num_redundant));
  }
  return ChosenPlacement{std::move(*placement), "physical_to_logical_map", {}};
}

Result<ChosenPlacement> from_counts(LoadedCounts counts,
                                    const EngineOptions& options,
                                    const ModelConfig& config) {
  Status fits = check_fits(counts, config.num_hidden_layers, config.n_routed_experts);
  if (!fits.ok()) return fits.error();
  const std::vector<int32_t> layers = layers_with_load(counts.history);
  Result<Plan> plan = make_plan(select_layers(counts.history, layers),
                                {.algorithm = options.eplb_algorithm,
                                 .num_ranks = options.ep_size,
                                 .num_redundant_experts = options.ep_num_redundant_experts,
                                 .num_nodes = options.nnodes});
  if (!plan.ok()) return plan.error();
  if (std::ssize(layers) < config.num_hidden_layers) {
    counts.notes.push_back("only " + std::to_string(layers.size()) + " of " +
                           std::to_string(config.num_hidden_layers) +
                           " layers recorded anything; the others are placed trivially");
  }
  Result<ChosenPlacement> others = from_trivial(options, config);
  if (!others.ok()) return others;
  const std::string source = "planned by " + plan->algorithm + " from " +
                             std::to_string(counts.history.num_steps) + " recorded passes";
  return ChosenPlacement{with_layers(std::move(others->placement), plan->placement, layers), source,
                         std::move(counts.notes)};
}

}  // namespace

Result<ChosenPlacement> choose_placement(const EngineOptions& options, const ModelConfig& config) {
  Result<ExpertLocation> location = load_expert_location(
      options.init_expert_location, {.allow_missing_ranks = options.allow_missing_ranks});
  if (!location.ok()) return location.error();
  if (const auto* map = std::get_if<ExpertMap>(&*location)) return from_map(*map, options, config);
  if (auto* counts = std::get_if<LoadedCounts>(&*location)) {
    return from_counts(std::move(*counts), options, config);
  }
  return from_trivial(options, config);
}

}  // namespace plimsoll
