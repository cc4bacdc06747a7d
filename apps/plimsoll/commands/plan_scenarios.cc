#include "commands/plan_scenarios.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "commands/plan_numbers.h"
#include "commands/recorded_load.h"
#include "commands/target_engine.h"
#include "options/commands.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

// A scenario and how the placement suits it, max/mean tokens per rank, mean over layers.
struct Row {
  std::string name;
  double share = 0;  // of all recorded (token, expert) pairs
  double trivial = 1;
  double robust = 1;
  double own = 1;  // of a plan for this scenario alone
  double bound = 1;
};

struct Summary {
  std::vector<Row> rows;
  double worst = 1, worst_bound = 1, mean = 0;
};

Summary summarise(std::vector<Row> rows) {
  Summary summary;
  for (const Row& row : rows) {
    summary.worst = std::max(summary.worst, row.robust);
    summary.worst_bound = std::max(summary.worst_bound, row.bound);
    summary.mean += row.share * row.robust;
  }
  summary.rows = std::move(rows);
  return summary;
}

Result<std::vector<Row>> make_rows(const std::vector<std::string>& names,
                                   const std::vector<LoadHistory>& loads,
                                   const RobustPlan& plan,
                                   const PlanOptions& options) {
  std::vector<Row> rows;
  double all = 0;
  for (size_t s = 0; s < loads.size(); ++s) {
    const auto trivial = certify_trivial(loads[s], plan.placement, options);
    if (!trivial) return trivial.error();
    const auto own = make_plan(loads[s], options);
    if (!own) return own.error();
    const double pairs = std::accumulate(loads[s].counts.begin(), loads[s].counts.end(), 0.0);
    all += pairs;
    rows.push_back({.name = names[s],
                    .share = pairs,
                    .trivial = mean_of(*trivial, max_over_mean),
                    .robust = mean_of(plan.certificates[s], max_over_mean),
                    .own = mean_of(own->certificates, max_over_mean),
                    .bound = mean_of(plan.certificates[s], bound_over_mean)});
  }
  for (Row& row : rows) row.share /= all;
  return rows;
}

std::string as_text(const RobustPlan& plan, const Summary& summary, const std::string& counts_on) {
  const Placement& placement = plan.placement;
  std::vector<std::vector<std::string>> cells = {
      {"scenario", "traffic", "trivial", "this plan", "its own plan", "lower bound"}};
  for (const Row& row : summary.rows) {
    cells.push_back({row.name, fmt::format("{:.1f} %", 100 * row.share),
                     fmt::format("{:.4f}", row.trivial), fmt::format("{:.4f}", row.robust),
                     fmt::format("{:.4f}", row.own), fmt::format("{:.4f}", row.bound)});
  }
  std::string text = fmt::format(
      "{}\n{} layers, {} experts in {} slots on {} ranks, by {} for {} scenarios\n"
      "max/mean tokens per rank, mean over layers: worst case {:.4f} (no placement is below "
      "{:.4f}), mean weighted by traffic {:.4f}\n",
      counts_on, placement.num_layers, placement.num_logical_experts,
      placement.num_physical_experts, placement.num_ranks, plan.algorithm, summary.rows.size(),
      summary.worst, summary.worst_bound, summary.mean);
  if (!plan.moved_experts.empty()) {
    text += fmt::format("to move from the placement in force: {} experts\n",
                        num_moved(plan.moved_experts));
  }
  return text + twins_text(placement) + "\n" + table_text(cells);
}

std::string as_json(const RobustPlan& plan,
                    const Summary& summary,
                    Dispatch dispatch,
                    const PlanSettings& settings) {
  Json scenarios = Json::array();
  for (const Row& row : summary.rows) {
    scenarios.push_back({{"scenario", row.name},
                         {"share", row.share},
                         {"max_over_mean_trivial", row.trivial},
                         {"max_over_mean", row.robust},
                         {"max_over_mean_own_plan", row.own},
                         {"bound_over_mean", row.bound}});
  }
  Json json = {{"out", settings.out},
               {"algorithm", plan.algorithm},
               {"dispatch", dispatch_name(dispatch)},
               {"num_layers", plan.placement.num_layers},
               {"num_logical_experts", plan.placement.num_logical_experts},
               {"num_physical_experts", plan.placement.num_physical_experts},
               {"ep_size", plan.placement.num_ranks},
               {"worst_max_over_mean", summary.worst},
               {"worst_bound_over_mean", summary.worst_bound},
               {"weighted_max_over_mean", summary.mean}};
  if (!plan.moved_experts.empty()) {
    json["moved_experts"] = num_moved(plan.moved_experts);
    if (settings.expert_bytes > 0)
      json["moved_bytes"] = num_moved(plan.moved_experts) * settings.expert_bytes;
  }
  json["scenarios"] = scenarios;
  return json.dump(2) + "\n";
}

struct Scenarios {
  std::vector<LoadHistory> loads;
  RecordedLoad first;  // says which layers are looked at
};

// Scenarios are planned for together, so all must have recorded the same layers.
Result<Scenarios> load_scenarios(const Settings& settings) {
  Scenarios scenarios;
  for (const std::string& path : settings.plan.scenarios) {
    auto recorded = load_recorded({path}, settings);
    if (!recorded) return recorded.error();
    if (scenarios.loads.empty()) {
      scenarios.first = *recorded;
    } else if (recorded->layers.chosen_ids() != scenarios.first.layers.chosen_ids()) {
      return invalid_argument(fmt::format(
          "{} recorded layers {}, but {} layers {}; give --layers of those that both recorded",
          path, ranges_text(recorded->layers.chosen_ids()), settings.plan.scenarios.front(),
          ranges_text(scenarios.first.layers.chosen_ids())));
    }
    scenarios.loads.push_back(std::move(recorded->load));
  }
  return scenarios;
}

}  // namespace

Result<int> run_plan_scenarios(const Settings& settings) {
  if (Status readable = check_readable(settings, settings.plan.out); !readable) {
    return readable.error();
  }
  const auto recorded = load_scenarios(settings);
  if (!recorded) return recorded.error();
  const auto& [loads, first] = *recorded;
  const auto in_force = placement_in_force(settings, first);
  if (!in_force) return in_force.error();
  const auto options = plan_options(settings, first);
  if (!options) return options.error();
  const auto plan = make_robust_plan(loads, *options);
  if (!plan) return plan.error();
  auto rows = make_rows(settings.plan.scenarios, loads, *plan, *options);
  if (!rows) return rows.error();
  const Summary summary = summarise(std::move(*rows));
  const std::string json = as_json(*plan, summary, options->dispatch, settings.plan);
  Status saved = save_planned(plan->placement, first.layers, *in_force, settings);
  if (saved) saved = save_certificate(json, settings.plan.out);
  if (!saved) return saved.error();
  print(settings.json ? json : as_text(*plan, summary, dispatch_text(options->dispatch, settings)));
  return kExitDone;
}

}  // namespace plimsoll
