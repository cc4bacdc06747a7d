// plimsoll plan: from recorded load to a placement, and the proof of how good it is.
#include "plimsoll/plan.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands/plan_numbers.h"
#include "commands/plan_scenarios.h"
#include "commands/recorded_load.h"
#include "commands/target_engine.h"
#include "options/commands.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

// A plan, and what it is compared with.
struct Planned {
  Plan plan;
  std::vector<Certificate> trivial;
  std::vector<Certificate> in_force;  // empty: no placement is in force
  Dispatch dispatch = Dispatch::kExact;
  std::string counts_on;  // the dispatch, in words
};

Result<Planned> make_planned(const LoadHistory& load, const PlanOptions& options) {
  Planned planned;
  auto plan = make_plan(load, options);
  if (!plan) return plan.error();
  planned.plan = std::move(*plan);
  auto trivial = certify_trivial(load, planned.plan.placement, options);
  if (!trivial) return trivial.error();
  planned.trivial = std::move(*trivial);
  if (options.in_force.num_layers > 0) {
    auto in_force =
        certify(options.in_force, total_load(load), {}, options.dispatch, options.num_nodes);
    if (!in_force) return in_force.error();
    planned.in_force = std::move(*in_force);
  }
  return planned;
}

std::string moved_text(const Planned& planned, int64_t expert_bytes) {
  const Placement& placement = planned.plan.placement;
  const int64_t moved = num_moved(planned.plan.moved_experts);
  std::string text = fmt::format("to move from the placement in force: {} experts of {} slots",
                                 moved, std::ssize(placement.physical_to_logical));
  if (expert_bytes > 0) {
    text += fmt::format(", {:.3f} GB", static_cast<double>(moved * expert_bytes) / 1e9);
  }
  return text + "\n";
}

std::string layers_text(const Planned& planned,
                        const std::vector<int32_t>& layer_ids,
                        bool with_reasons) {
  const bool moves = !planned.in_force.empty();
  std::vector<std::string> heading = {"layer", "mean", "max trivial"};
  if (moves) heading.insert(heading.end(), {"max in force", "moved"});
  heading.insert(heading.end(), {"max planned", "lower bound", "gap"});
  if (with_reasons) heading.push_back("why");
  std::vector<std::vector<std::string>> rows = {heading};
  for (size_t layer = 0; layer < planned.plan.certificates.size(); ++layer) {
    const Certificate& c = planned.plan.certificates[layer];
    rows.push_back({fmt::format("{}", layer_ids[layer]), fmt::format("{:.1f}", c.mean_load),
                    fmt::format("{}", planned.trivial[layer].max_load)});
    std::vector<std::string>& row = rows.back();
    if (moves) {
      row.push_back(fmt::format("{}", planned.in_force[layer].max_load));
      row.push_back(fmt::format("{}", planned.plan.moved_experts[layer]));
    }
    row.insert(row.end(), {fmt::format("{}", c.max_load), fmt::format("{}", c.lower_bound),
                           fmt::format("{:.2f} %", 100 * c.gap())});
    if (with_reasons) row.push_back(explain(c));
  }
  return table_text(rows);
}

std::string as_text(const Planned& planned,
                    const std::vector<int32_t>& layer_ids,
                    const PlanSettings& settings) {
  const Placement& placement = planned.plan.placement;
  const std::vector<Certificate>& certificates = planned.plan.certificates;
  std::string text = fmt::format(
      "{}\n{} layers, {} experts in {} slots on {} ranks, by {}\n"
      "max/mean tokens per rank, mean over layers: trivial {:.4f}, {}planned {:.4f}, gap to the "
      "bound {:.2f} %\n",
      planned.counts_on, placement.num_layers, placement.num_logical_experts,
      placement.num_physical_experts, placement.num_ranks, planned.plan.algorithm,
      mean_of(planned.trivial, max_over_mean),
      planned.in_force.empty()
          ? ""
          : fmt::format("in force {:.4f}, ", mean_of(planned.in_force, max_over_mean)),
      mean_of(certificates, max_over_mean), 100 * mean_of(certificates, gap_of));
  if (!planned.in_force.empty()) text += moved_text(planned, settings.expert_bytes);
  return text + twins_text(placement) + "\n" + layers_text(planned, layer_ids, settings.explain);
}

std::string_view bound_name(Bound bound) {
  switch (bound) {
    case Bound::kMean:
      return "mean";
    case Bound::kReplicaBudget:
      return "replica budget";
    case Bound::kSlotCardinality:
      return "slot cardinality";
    case Bound::kSlotBudget:
      return "slot budget";
  }
  return "";
}

Json layers_json(const Planned& planned, const std::vector<int32_t>& layer_ids) {
  Json layers = Json::array();
  for (size_t layer = 0; layer < planned.plan.certificates.size(); ++layer) {
    const Certificate& c = planned.plan.certificates[layer];
    layers.push_back({{"layer", layer_ids[layer]},
                      {"mean", c.mean_load},
                      {"max", c.max_load},
                      {"max_even_split", c.max_load_even},
                      {"max_trivial", planned.trivial[layer].max_load},
                      {"lower_bound", c.lower_bound},
                      {"bound", bound_name(c.binding)},
                      {"gap", c.gap()},
                      {"copies_beside_twin", c.copies_beside_twin},
                      {"why", explain(c)}});
    if (planned.in_force.empty()) continue;
    layers.back()["max_in_force"] = planned.in_force[layer].max_load;
    layers.back()["moved_experts"] = planned.plan.moved_experts[layer];
  }
  return layers;
}

std::string as_json(const Planned& planned,
                    const std::vector<int32_t>& layer_ids,
                    const Settings& all_settings) {
  const PlanSettings& settings = all_settings.plan;
  const Placement& placement = planned.plan.placement;
  const std::vector<Certificate>& certificates = planned.plan.certificates;
  Json json = {{"out", settings.out},
               {"algorithm", planned.plan.algorithm},
               {"dispatch", dispatch_name(planned.dispatch)},
               {"num_nodes", all_settings.engine.nnodes},
               {"num_layers", placement.num_layers},
               {"num_logical_experts", placement.num_logical_experts},
               {"num_physical_experts", placement.num_physical_experts},
               {"ep_size", placement.num_ranks},
               {"max_over_mean", mean_of(certificates, max_over_mean)},
               {"max_over_mean_even_split", mean_of(certificates, even_over_mean)},
               {"max_over_mean_trivial", mean_of(planned.trivial, max_over_mean)},
               {"gap", mean_of(certificates, gap_of)},
               {"copies_beside_twin", num_copies_beside_twin(placement)}};
  if (!planned.in_force.empty()) {
    json["max_over_mean_in_force"] = mean_of(planned.in_force, max_over_mean);
    json["moved_experts"] = num_moved(planned.plan.moved_experts);
    if (settings.expert_bytes > 0) {
      json["moved_bytes"] = num_moved(planned.plan.moved_experts) * settings.expert_bytes;
    }
  }
  json["layers"] = layers_json(planned, layer_ids);
  return json.dump(2) + "\n";
}

}  // namespace

Result<int> run_plan(const Settings& settings) {
  if (settings.plan.load.empty() == settings.plan.scenarios.empty()) {
    return invalid_argument("plan needs recorded load: either --load F or --scenario F");
  }
  if (!settings.plan.scenarios.empty()) return run_plan_scenarios(settings);
  if (Status readable = check_readable(settings, settings.plan.out); !readable) {
    return readable.error();
  }
  const auto recorded = load_recorded(settings.plan.load, settings);
  if (!recorded) return recorded.error();
  const auto in_force = placement_in_force(settings, *recorded);
  if (!in_force) return in_force.error();
  const auto options = plan_options(settings, *recorded);
  if (!options) return options.error();
  auto planned = make_planned(recorded->load, *options);
  if (!planned) return planned.error();
  planned->dispatch = options->dispatch;
  planned->counts_on = dispatch_text(options->dispatch, settings);
  const LayerChoice& layers = recorded->layers;
  const std::vector<int32_t> ids = layers.chosen_ids();
  const std::string json = as_json(*planned, ids, settings);
  Status saved = save_planned(planned->plan.placement, layers, *in_force, settings);
  if (saved) saved = save_certificate(json, settings.plan.out);
  if (!saved) return saved.error();
  print(settings.json ? json : as_text(*planned, ids, settings.plan));
  return kExitDone;
}

}  // namespace plimsoll
