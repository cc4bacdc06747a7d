// plimsoll report: recorded load and a plan for it as a page for people.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "commands/plan_numbers.h"
#include "commands/recorded_load.h"
#include "commands/report_page.h"
#include "commands/target_engine.h"
#include "options/commands.h"
#include "record/formats/file_io.h"
#include "record/formats/json_text.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

struct Report {
  LoadHistory load;
  std::vector<int32_t> layer_ids;
  std::string before_name;
  Placement before;
  std::vector<Certificate> before_certificates;
  Plan after;
  PlanOptions options;
};

Result<Report> make_report(const Settings& settings) {
  auto recorded = load_recorded(settings.plan.load, settings);
  if (!recorded) return recorded.error();
  auto options = plan_options(settings, *recorded);
  if (!options) return options.error();
  Report report{.load = std::move(recorded->load),
                .layer_ids = recorded->layers.chosen_ids(),
                .before_name = "trivial"};
  report.options = std::move(*options);
  const int num_experts = report.load.num_logical_experts;
  const int num_slots = num_experts + report.options.num_redundant_experts;
  if (report.options.in_force.num_layers > 0) {
    report.before_name = settings.replay.placements.front();
    report.before = report.options.in_force;
    // Experts move between placements of the same size only.
    if (report.before.num_physical_experts != num_slots) report.options.in_force = {};
  } else {
    const bool divides = num_experts % report.options.num_ranks == 0;
    auto trivial = trivial_placement(report.load.num_layers, num_experts,
                                     divides ? 0 : report.options.num_redundant_experts,
                                     report.options.num_ranks);
    if (!trivial) return trivial.error();
    report.before = std::move(*trivial);
  }
  auto plan = make_plan(report.load, report.options);
  if (!plan) return plan.error();
  report.after = std::move(*plan);
  auto before = certify(report.before, total_load(report.load), {}, report.options.dispatch,
                        report.options.num_nodes);
  if (!before) return before.error();
  report.before_certificates = std::move(*before);
  return report;
}

// [layers][ranks]: how the dispatch spreads the whole load, in whole tokens.
Result<Json> rank_loads(const Placement& placement, const Report& report) {
  const auto loads = expected_rank_loads(placement, total_load(report.load),
                                         report.options.dispatch, report.options.num_nodes);
  if (!loads) return loads.error();
  Json rows = Json::array();
  for (size_t i = 0; i < loads->size(); i += placement.num_ranks) {
    Json row = Json::array();
    for (int r = 0; r < placement.num_ranks; ++r) {
      row.push_back(static_cast<int64_t>((*loads)[i + r] + 0.5));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

template <typename T>
Json in_rows(const std::vector<T>& values, int num_columns) {
  Json rows = Json::array();
  for (size_t i = 0; i < values.size(); i += num_columns) {
    rows.push_back(std::vector<T>(values.begin() + i, values.begin() + i + num_columns));
  }
  return rows;
}

// [layers][experts]: ranks that hold the expert.
Json copies_of(const Placement& placement) {
  Json rows = Json::array();
  for (int l = 0; l < placement.num_layers; ++l) {
    const ReplicaTable replicas = replica_table(placement, l);
    Json row = Json::array();
    for (int e = 0; e < placement.num_logical_experts; ++e) row.push_back(replicas.count(e));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string percent(double share) {
  return fmt::format("{:.{}f} %", 100 * share, share < 0.1 ? 1 : 0);
}

std::string verdict(double before, double after) {
  constexpr double kLevel = 1.005;
  if (before < kLevel) {
    return fmt::format("The ranks are level: the fullest has {} more to do than the mean.",
                       percent(before - 1));
  }
  return fmt::format("The fullest rank has {} more to do than the mean; after the change, {}.",
                     percent(before - 1), percent(after - 1));
}

// The least number of redundant experts with which no bound but the mean is in the way; -1: none.
Result<int> enough_redundant_experts(const Report& report) {
  PlanOptions options = report.options;
  options.algorithm = "deepseek";  // quick, and the bound does not depend on it
  options.in_force = {};
  options.max_moved_experts = -1;
  for (int i = 0; i < 8; ++i) {
    options.num_redundant_experts += options.num_ranks;
    const auto plan = make_plan(report.load, options);
    if (!plan) return plan.error();
    if (mean_of(plan->certificates, bound_over_mean) < 1.001) return options.num_redundant_experts;
  }
  return -1;
}

std::string plan_command(const Settings& settings) {
  std::string command = "plimsoll plan";
  for (const std::string& path : settings.plan.load) command += " --load " + path;
  command += fmt::format(" --ep-size {} --ep-num-redundant-experts {}", settings.engine.ep_size,
                         settings.engine.ep_num_redundant_experts);
  const EngineOptions usual;
  if (settings.engine.eplb_algorithm != usual.eplb_algorithm) {
    command += " --eplb-algorithm " + settings.engine.eplb_algorithm;
  }
  if (settings.engine.ep_dispatch_algorithm != usual.ep_dispatch_algorithm) {
    command += " --ep-dispatch-algorithm " + settings.engine.ep_dispatch_algorithm;
  }
  if (!settings.plan.target.empty()) command += " --for " + settings.plan.target;
  if (settings.engine.nnodes != 1) command += fmt::format(" --nnodes {}", settings.engine.nnodes);
  if (settings.plan.num_groups > 0)
    command += fmt::format(" --num-groups {}", settings.plan.num_groups);
  if (!settings.plan.layers.empty()) command += " --layers " + settings.plan.layers;
  if (settings.engine.allow_missing_ranks) command += " --allow-missing-ranks";
  for (const std::string& path : settings.replay.placements) command += " --placement " + path;
  if (settings.plan.max_moved_experts >= 0) {
    command += fmt::format(" --max-moved-experts {}", settings.plan.max_moved_experts);
  }
  return command + " --out placement.json";
}

Result<Json> advice(const Report& report, const Settings& settings) {
  const double before = mean_of(report.before_certificates, max_over_mean);
  const double after = mean_of(report.after.certificates, max_over_mean);
  const double bound = mean_of(report.after.certificates, bound_over_mean);
  Json steps = Json::array();
  if (before - after < 0.005) {
    steps.push_back({{"text",
                      "Leave the placement as it is: a new one would gain less than half a "
                      "percent."}});
  } else {
    steps.push_back(
        {{"text",
          fmt::format("Serve with the new placement: the fullest rank of a layer then has {} "
                      "less to do, on average.",
                      percent(1 - after / before))},
         {"command",
          plan_command(settings) + "\nplimsoll serve --init-expert-location placement.json ..."}});
  }
  steps.push_back({{"text", "The plan " + dispatch_text(report.options.dispatch, settings) + "."}});
  if (bound > 1.005) {
    const auto enough = enough_redundant_experts(report);
    if (!enough) return enough.error();
    const std::string more = *enough < 0 ? "Many more redundant experts than there are ranks"
                                         : fmt::format("{} redundant experts", *enough);
    steps.push_back({{"text", fmt::format("{} would make level ranks possible: with {}, no "
                                          "placement is below {:.3f}.",
                                          more, report.options.num_redundant_experts, bound)}});
  } else if (after > bound * 1.005) {
    steps.push_back({{"text", fmt::format("{} redundant experts more, one for each rank, would let "
                                          "the plan come closer to the bound.",
                                          settings.engine.ep_size)}});
  }
  steps.push_back(
      {{"text",
        "Check with other traffic before relying on it: replay a recording of another day "
        "under both placements."},
       {"command", fmt::format("plimsoll replay --load other.pt --ep-size {} --placement {} "
                               "--placement placement.json",
                               settings.engine.ep_size, report.before_name)}});
  return steps;
}

Json layers_of(const Report& report) {
  Json layers = Json::array();
  for (size_t l = 0; l < report.after.certificates.size(); ++l) {
    const Certificate& c = report.after.certificates[l];
    layers.push_back({{"layer", report.layer_ids[l]},
                      {"mean", c.mean_load},
                      {"max_before", report.before_certificates[l].max_load},
                      {"max", c.max_load},
                      {"lower_bound", c.lower_bound},
                      {"hottest_expert", c.hottest_expert},
                      {"hottest_copies", c.hottest_copies},
                      {"why", explain(c)}});
  }
  return layers;
}

Result<Json> as_json(const Report& report, const Settings& settings) {
  const double before = mean_of(report.before_certificates, max_over_mean);
  const double after = mean_of(report.after.certificates, max_over_mean);
  Json json = {{"source", settings.plan.load},
               {"verdict", verdict(before, after)},
               {"algorithm", report.after.algorithm},
               {"dispatch", dispatch_name(report.options.dispatch)},
               {"num_layers", report.load.num_layers},
               {"num_experts", report.load.num_logical_experts},
               {"ep_size", report.options.num_ranks},
               {"before", report.before_name},
               {"num_slots_before", report.before.num_physical_experts},
               {"num_slots", report.after.placement.num_physical_experts},
               {"max_over_mean_before", before},
               {"max_over_mean", after},
               {"bound_over_mean", mean_of(report.after.certificates, bound_over_mean)},
               {"moved_experts", nullptr},
               {"moved_bytes", nullptr}};
  if (!report.after.moved_experts.empty()) {
    const int64_t moved = num_moved(report.after.moved_experts);
    json["moved_experts"] = moved;
    if (settings.plan.expert_bytes > 0) json["moved_bytes"] = moved * settings.plan.expert_bytes;
  }
  auto steps = advice(report, settings);
  if (!steps) return steps.error();
  json["advice"] = std::move(*steps);
  json["layers"] = layers_of(report);
  json["expert_load"] = in_rows(total_load(report.load), report.load.num_logical_experts);
  json["copies_before"] = copies_of(report.before);
  json["copies"] = copies_of(report.after.placement);
  for (const auto& [key, placement] : {std::pair{"rank_load_before", &report.before},
                                       std::pair{"rank_load", &report.after.placement}}) {
    auto loads = rank_loads(*placement, report);
    if (!loads) return loads.error();
    json[key] = std::move(*loads);
  }
  return json;
}

// Nothing in the data, such as a file's name, can end the element it stands in.
std::string page_with(const Json& json) {
  std::string data = json_text(json, -1, /*ascii=*/true);
  for (size_t at = data.find('<'); at != data.npos; at = data.find('<', at)) {
    data.replace(at, 1, "\\u003c");
  }
  std::string page(kReportPage);
  page.replace(page.find(kReportData), kReportData.size(), data);
  return page;
}

}  // namespace

Result<int> run_report(const Settings& settings) {
  const auto report = make_report(settings);
  if (!report) return report.error();
  const auto json = as_json(*report, settings);
  if (!json) return json.error();
  const std::string page = page_with(*json);
  Status saved = write_file(settings.plan.out, std::as_bytes(std::span(page)));
  if (!saved) return saved.error();
  if (settings.json) {
    print(json_text(*json, 2) + "\n");
  } else {
    print(fmt::format("{}\n{} can be opened in any browser\n",
                      (*json)["verdict"].get<std::string>(), settings.plan.out));
  }
  return kExitDone;
}

}  // namespace plimsoll
