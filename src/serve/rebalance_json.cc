#include "serve/rebalance_json.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const RebalanceReport& report) {
  Json json = {{"number", report.number},
               {"steps", report.num_steps},
               {"switched_layers", report.num_layers},
               {"moved_experts", report.num_moved},
               {"plan_seconds", report.plan_seconds},
               {"longest_pause_seconds", report.longest_pause_seconds},
               {"switch_seconds", report.switch_seconds},
               {"gain_seconds_predicted", report.gain_seconds},
               {"cost_seconds_predicted", report.cost_seconds},
               {"max_over_mean_before", report.max_over_mean_before},
               {"max_over_mean_predicted", report.max_over_mean_predicted}};
  json["max_over_mean_measured"] =
      report.max_over_mean_measured ? Json(*report.max_over_mean_measured) : Json();
  json["failure"] = report.failure.empty() ? Json() : Json(report.failure);
  return json;
}

}  // namespace

nlohmann::ordered_json to_json(const RebalanceStats& stats) {
  Json json = {{"rebalances", stats.num_rebalances},
               {"skipped", stats.num_skipped},
               {"failed", stats.num_failed},
               {"switched_layers", stats.num_switched_layers},
               {"moved_experts", stats.num_moved_experts},
               {"longest_pause_seconds", stats.longest_pause_seconds}};
  json["last"] = stats.last ? to_json(*stats.last) : Json();
  return json;
}

nlohmann::ordered_json to_json(const Placement& placement) {
  Json map = Json::array();
  for (int l = 0; l < placement.num_layers; ++l) map.push_back(placement.layer(l));
  return {{"physical_to_logical_map", std::move(map)}};
}

}  // namespace plimsoll
