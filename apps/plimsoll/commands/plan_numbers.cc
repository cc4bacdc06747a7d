#include "commands/plan_numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <numeric>
#include <span>

#include "commands/target_engine.h"
#include "commands/traffic.h"
#include "plimsoll/layers.h"
#include "record/formats/file_io.h"

namespace plimsoll {
namespace {

double over_mean(int64_t load, const Certificate& certificate) {
  return certificate.mean_load > 0 ? static_cast<double>(load) / certificate.mean_load : 1;
}

Result<std::vector<uint8_t>> active_ranks(const Settings& settings) {
  const int num_ranks = settings.engine.ep_size;
  std::vector<uint8_t> active;
  for (const std::string& text : settings.plan.dead_ranks) {
    active.resize(num_ranks, 1);
    int rank = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rank);
    if (error != std::errc() || end != text.data() + text.size() || rank < 0 || rank >= num_ranks) {
      return invalid_argument(
          fmt::format("--dead-rank got '{}'; it takes a rank from 0 to {}", text, num_ranks - 1));
    }
    active[rank] = 0;
  }
  return active;
}

}  // namespace

Result<PlanOptions> plan_options(const Settings& settings, const RecordedLoad& recorded) {
  auto active = active_ranks(settings);
  if (!active) return active.error();
  const auto dispatch = planned_dispatch(settings);
  if (!dispatch) return dispatch.error();
  PlanOptions options{.algorithm = settings.engine.eplb_algorithm,
                      .num_ranks = settings.engine.ep_size,
                      .num_redundant_experts = settings.engine.ep_num_redundant_experts,
                      .dispatch = *dispatch,
                      .num_nodes = settings.engine.nnodes,
                      .num_groups = settings.plan.num_groups,
                      .active_ranks = std::move(*active),
                      .max_moved_experts = settings.plan.max_moved_experts};
  if (settings.replay.placements.empty()) return options;
  if (settings.replay.placements.size() > 1) {
    return invalid_argument("--placement was given several times; one placement is in force");
  }
  auto in_force = placement_in_force(settings, recorded);
  if (!in_force) return in_force.error();
  options.in_force = select_layers(*in_force, recorded.layers.rows);
  return options;
}

Result<Placement> placement_in_force(const Settings& settings, const RecordedLoad& recorded) {
  if (settings.replay.placements.empty()) return Placement{};
  auto in_force = load_placements(settings, static_cast<int>(recorded.layers.layer_ids.size()),
                                  recorded.load.num_logical_experts);
  if (!in_force) return in_force.error();
  return std::move(in_force->front().placement);
}

Result<std::vector<Certificate>> certify_trivial(const LoadHistory& load,
                                                 const Placement& planned,
                                                 const PlanOptions& options) {
  const bool divides = load.num_logical_experts % planned.num_ranks == 0;
  const auto trivial =
      trivial_placement(load.num_layers, load.num_logical_experts,
                        divides ? 0 : planned.num_redundant_experts(), planned.num_ranks);
  if (!trivial) return trivial.error();
  return certify(*trivial, total_load(load), {}, options.dispatch, options.num_nodes);
}

Status save_certificate(const std::string& json, const std::string& placement_file) {
  const size_t dot = placement_file.rfind('.');
  return write_file(placement_file.substr(0, dot) + ".certificate.json",
                    std::as_bytes(std::span(json)));
}

int64_t num_moved(const std::vector<int32_t>& moved_experts) {
  return std::accumulate(moved_experts.begin(), moved_experts.end(), int64_t{0});
}

double max_over_mean(const Certificate& c) {
  return over_mean(c.max_load, c);
}
double even_over_mean(const Certificate& c) {
  return over_mean(c.max_load_even, c);
}
double bound_over_mean(const Certificate& c) {
  return over_mean(c.lower_bound, c);
}
double gap_of(const Certificate& c) {
  return c.gap();
}

double mean_of(const std::vector<Certificate>& certificates, double (*value)(const Certificate&)) {
  double sum = 0;
  int num_layers = 0;
  for (const Certificate& c : certificates) {
    if (c.mean_load == 0) continue;  // nothing was recorded of it: a dense layer
    sum += value(c);
    ++num_layers;
  }
  return num_layers == 0 ? 1 : sum / num_layers;
}

}  // namespace plimsoll
