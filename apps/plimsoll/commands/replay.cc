// plimsoll replay: recorded traffic under placements and policies, a row each.
#include "plimsoll/replay.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "commands/recorded_load.h"
#include "commands/traffic.h"
#include "options/commands.h"
#include "plimsoll/layers.h"
#include "record/formats/json_text.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

struct Row {
  std::string placement;
  std::string policy;
  ReplayStats stats;
};

// A column: its name for people, its key for programs, its value.
struct Column {
  std::string_view title;
  std::string_view key;
  double (*value)(const ReplayStats& stats);
};

constexpr Column kColumns[] = {
    {"mean", "max_over_mean", [](const ReplayStats& s) { return s.max_over_mean.mean; }},
    {"p50", "max_over_mean_p50", [](const ReplayStats& s) { return s.max_over_mean.p50; }},
    {"p99", "max_over_mean_p99", [](const ReplayStats& s) { return s.max_over_mean.p99; }},
    {"max", "max_over_mean_max", [](const ReplayStats& s) { return s.max_over_mean.max; }},
    {"bound", "bound_over_mean", [](const ReplayStats& s) { return s.bound_over_mean.mean; }},
    {"Σmax/Σmean", "time_weighted", [](const ReplayStats& s) { return s.time_weighted; }},
    {"messages/token", "messages_per_token",
     [](const ReplayStats& s) { return s.messages_per_token; }},
    {"local", "local_share", [](const ReplayStats& s) { return s.local_share; }},
    {"balancedness", "balancedness", [](const ReplayStats& s) { return s.balancedness; }},
    {"imbalance", "imbalance_ratio", [](const ReplayStats& s) { return s.imbalance_ratio; }},
    {"PAR", "par", [](const ReplayStats& s) { return s.max_over_mean.mean; }},
};

// Where copies are made just in time.
constexpr Column kJitColumns[] = {
    {"copies", "copies_per_batch", [](const ReplayStats& s) { return s.copies_per_batch; }},
    {"at least", "fewest_copies_per_batch",
     [](const ReplayStats& s) { return s.fewest_copies_per_batch; }},
    {"time", "time_with_copies", [](const ReplayStats& s) { return s.time_with_copies; }},
};

std::vector<Column> columns_for(const std::vector<Row>& rows) {
  std::vector<Column> columns(std::begin(kColumns), std::end(kColumns));
  if (std::ranges::any_of(rows, [](const Row& row) { return copies_just_in_time(row.policy); })) {
    columns.insert(columns.end(), std::begin(kJitColumns), std::end(kJitColumns));
  }
  return columns;
}

std::string number_text(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.4f}", value);
}

// The heading, then the rows.
std::vector<std::vector<std::string>> as_cells(const std::vector<Row>& rows, bool for_people) {
  std::vector<std::vector<std::string>> cells = {{"placement", "policy"}};
  const std::vector<Column> columns = columns_for(rows);
  for (const Column& column : columns) {
    cells[0].emplace_back(for_people ? column.title : column.key);
  }
  for (const Row& row : rows) {
    cells.push_back({row.placement, row.policy});
    for (const Column& column : columns) {
      cells.back().push_back(number_text(column.value(row.stats)));
    }
  }
  return cells;
}

std::string as_text(const std::vector<Row>& rows,
                    const std::vector<int32_t>& layer_ids,
                    const Settings& settings) {
  const ReplayStats& stats = rows.front().stats;
  return fmt::format(
             "{} tokens in {} batches on {} ranks, layers {}; max/mean load ({}) of the ranks by "
             "layer and batch, shared experts included\n\n",
             stats.num_tokens, stats.num_batches, settings.engine.ep_size, ranges_text(layer_ids),
             settings.replay.objective) +
         table_text(as_cells(rows, true));
}

std::string as_markdown(const std::vector<Row>& rows) {
  std::string text;
  for (const auto& row : as_cells(rows, true)) {
    const bool is_heading = text.empty();
    text += fmt::format("| {} |\n", fmt::join(row, " | "));
    if (!is_heading) continue;
    text += "| --- | --- |";
    for (size_t i = 2; i < row.size(); ++i) text += " ---: |";
    text += "\n";
  }
  return text;
}

// Quoted where a comma or a quote would otherwise end the field.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == text.npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string as_csv(const std::vector<Row>& rows) {
  std::string text;
  for (auto& row : as_cells(rows, false)) {
    for (std::string& cell : row) cell = cell == "-" ? "" : csv_field(cell);
    text += fmt::format("{}\n", fmt::join(row, ","));
  }
  return text;
}

std::string as_json(const std::vector<Row>& rows,
                    const std::vector<int32_t>& layer_ids,
                    const Settings& settings) {
  const ReplayStats& first = rows.front().stats;
  Json list = Json::array();
  for (const Row& row : rows) {
    Json item = {{"placement", row.placement}, {"policy", row.policy}};
    for (const Column& column : columns_for(rows)) {
      const double value = column.value(row.stats);
      item[std::string(column.key)] = std::isnan(value) ? Json() : Json(value);
    }
    list.push_back(std::move(item));
  }
  const Json json = {{"ep_size", settings.engine.ep_size},
                     {"num_tokens", first.num_tokens},
                     {"num_batches", first.num_batches},
                     {"layers", layer_ids},
                     {"route_objective", settings.replay.objective},
                     {"rows", list}};
  return json_text(json, 2) + "\n";
}

std::string as_format(const std::vector<Row>& rows,
                      const std::vector<int32_t>& layer_ids,
                      const Settings& settings) {
  const std::string& format = settings.json ? "json" : settings.replay.format;
  if (format == "json") return as_json(rows, layer_ids, settings);
  if (format == "csv") return as_csv(rows);
  return format == "md" ? as_markdown(rows) : as_text(rows, layer_ids, settings);
}

std::vector<std::string> policies_of(const Settings& settings) {
  if (!settings.replay.policies.empty()) return settings.replay.policies;
  const bool can_waterfill = settings.replay.num_shared_experts > 0;
  if (settings.replay.objective == "experts") return {"exact"};  // only exact routing has others
  if (settings.replay.objective == "time" && can_waterfill) return {"exact", "exact+waterfill"};
  if (settings.replay.objective == "time") return {"exact"};
  if (!can_waterfill) return {"static", "dynamic", "exact"};
  return {"static", "dynamic", "exact", "exact+waterfill"};
}

}  // namespace

Result<int> run_replay(const Settings& settings) {
  const auto traffic = load_traffic(settings);
  if (!traffic) return traffic.error();
  const LayerChoice& layers = traffic->layers;
  const auto placements = load_placements(settings, static_cast<int>(layers.layer_ids.size()),
                                          traffic->num_logical_experts());
  if (!placements) return placements.error();
  std::vector<Row> rows;
  for (const NamedPlacement& named : *placements) {
    for (const std::string& policy : policies_of(settings)) {
      const auto result = traffic->replay(
          named.name + " " + policy, select_layers(named.placement, layers.rows), policy, settings);
      if (!result) return result.error();
      rows.push_back({named.name, policy, result->stats});
    }
  }
  print(as_format(rows, layers.chosen_ids(), settings));
  return kExitDone;
}

}  // namespace plimsoll
