#include "commands/recorded_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <set>

#include "plimsoll/layers.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

// "3-60,62" to its numbers; nothing where it is no such list.
std::optional<std::set<int32_t>> parse_ranges(const std::string& text) {
  constexpr int32_t kMaxLayer = 1 << 20;
  std::set<int32_t> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&](int32_t& value) {
    const auto [next, error] = std::from_chars(at, end, value);
    at = next;
    return error == std::errc() && value >= 0 && value <= kMaxLayer;
  };
  while (true) {
    int32_t first = 0;
    if (!number(first)) return std::nullopt;
    int32_t last = first;
    if (at != end && *at == '-' && (++at, !number(last))) return std::nullopt;
    if (last < first) return std::nullopt;
    for (int32_t n = first; n <= last; ++n) numbers.insert(n);
    if (at == end) return numbers;
    if (*at++ != ',') return std::nullopt;
  }
}

// The ids of the one placement in force, where its file numbers as many layers; else 0, 1, ...
std::vector<int32_t> layer_ids_of(const Settings& settings, int num_layers) {
  if (settings.replay.placements.size() == 1) {
    const auto map = load_expert_map(settings.replay.placements.front());
    if (map.ok() && std::ssize(map->layer_ids) == num_layers) return map->layer_ids;
  }
  std::vector<int32_t> ids(num_layers);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::vector<int32_t> at_rows(const std::vector<int32_t>& values, const std::vector<int32_t>& rows) {
  std::vector<int32_t> chosen;
  for (const int32_t row : rows) chosen.push_back(values[row]);
  return chosen;
}

}  // namespace

std::vector<int32_t> LayerChoice::chosen_ids() const {
  return at_rows(layer_ids, rows);
}

std::string ranges_text(const std::vector<int32_t>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += fmt::format("{}{}", i ? ", " : "", numbers[i]);
    if (end - i > 1) text += fmt::format("-{}", numbers[end - 1]);
    i = end;
  }
  return text;
}

Result<LayerChoice> choose_layers(const Settings& settings, int num_layers) {
  LayerChoice choice{.rows = {}, .layer_ids = layer_ids_of(settings, num_layers)};
  const auto wanted = parse_ranges(settings.plan.layers);
  if (!settings.plan.layers.empty() && !wanted) {
    return invalid_argument(
        fmt::format("--layers got '{}'; it takes layers and ranges of them, such as 3-60 or 0,2-5",
                    settings.plan.layers));
  }
  for (int32_t row = 0; row < num_layers; ++row) {
    if (!wanted || wanted->contains(choice.layer_ids[row])) choice.rows.push_back(row);
  }
  if (wanted && choice.rows.size() < wanted->size()) {
    return invalid_argument(
        fmt::format("--layers {} names layers that are not there; the file has "
                    "layers {}",
                    settings.plan.layers, ranges_text(choice.layer_ids)));
  }
  return choice;
}

Result<RecordedLoad> load_recorded(const std::vector<std::string>& paths,
                                   const Settings& settings) {
  Progress progress("reading");
  const LoadOptions options{
      .allow_missing_ranks = settings.engine.allow_missing_ranks,
      .progress = [&](int64_t done, int64_t total) { progress.show(done, total); }};
  auto loaded = load_expert_counts(paths, options);
  progress.wipe();
  if (!loaded) return loaded.error();
  for (const std::string& note : loaded->notes) talk("note: " + note);
  const LoadHistory& all = loaded->history;
  if (Status fits = check_fits(*loaded, all.num_layers, all.num_logical_experts); !fits) {
    return fits.error();
  }
  auto choice = choose_layers(settings, all.num_layers);
  if (!choice) return choice.error();
  const std::vector<int32_t> busy = layers_with_load(all);
  std::vector<int32_t> rows, idle;
  std::ranges::set_intersection(choice->rows, busy, std::back_inserter(rows));
  std::ranges::set_difference(choice->rows, busy, std::back_inserter(idle));
  if (!idle.empty()) {
    talk(fmt::format("note: layers {} recorded nothing: dense, or not recorded; they are left out",
                     ranges_text(at_rows(choice->layer_ids, idle))));
  }
  if (rows.empty()) return invalid_argument("none of the layers that --layers names has any load");
  choice->rows = std::move(rows);
  const bool all_rows = std::ssize(choice->rows) == all.num_layers;
  return RecordedLoad{all_rows ? std::move(loaded->history) : select_layers(all, choice->rows),
                      std::move(*choice), std::move(loaded->info)};
}

Status save_planned(const Placement& planned,
                    const LayerChoice& layers,
                    const Placement& in_force,
                    const Settings& settings) {
  const auto num_layers = static_cast<int>(layers.layer_ids.size());
  Placement all = in_force;
  if (in_force.num_layers == 0 || in_force.num_physical_experts != planned.num_physical_experts) {
    auto trivial = trivial_placement(num_layers, planned.num_logical_experts,
                                     planned.num_redundant_experts(), planned.num_ranks);
    if (!trivial) return trivial.error();
    all = std::move(*trivial);
  }
  return save_placement(
      with_layers(std::move(all), planned, layers.rows), settings.plan.out,
      {.format = settings.plan.format, .layer_ids = layers.layer_ids, .moe_rows = layers.rows});
}

std::string twins_text(const Placement& placement) {
  const int64_t twins = num_copies_beside_twin(placement);
  if (twins == 0) return "";
  return fmt::format(
      "{} of {} copies share a rank with their twin: they help nobody, and vLLM-Ascend cannot load "
      "them\n",
      twins, int64_t{placement.num_redundant_experts()} * placement.num_layers);
}

}  // namespace plimsoll
