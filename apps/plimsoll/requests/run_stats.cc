#include "requests/run_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/rebalance/balance_summary.h"

namespace plimsoll {
namespace {

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

}  // namespace

Distribution distribution_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto percentile = [&](double part) {
    const double rank = std::ceil(part * static_cast<double>(values.size()));
    return values[static_cast<size_t>(std::max(rank, 1.0)) - 1];
  };
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.mean = sum / static_cast<double>(values.size()),
          .p50 = percentile(0.50),
          .p99 = percentile(0.99),
          .max = values.back()};
}

void BalanceStats::add(const StepBalance& step) {
  num_jit_copies += step.num_jit_copies;
  for (const LayerBalance& layer : busy_layers(step)) {
    if (std::ranges::max(layer.routed) > 0) routed.push_back(layer.routed_ratio());
    total.push_back(layer.total_ratio());
    bound.push_back(layer.bound_ratio());
  }
}

double RunStats::prefill_tokens_per_second() const {
  return rate(num_prefill_tokens, prefill_seconds);
}
double RunStats::decode_tokens_per_second() const {
  return rate(num_decode_tokens, decode_seconds);
}
double RunStats::tokens_per_second() const {
  return rate(num_prefill_tokens + num_sampled_tokens, seconds());
}

Json to_json(const Distribution& d) {
  return {{"mean", d.mean}, {"p50", d.p50}, {"p99", d.p99}, {"max", d.max}};
}

Json to_json(const BalanceStats& balance) {
  return {{"max_over_mean", to_json(distribution_of(balance.total))},
          {"max_over_mean_routed", to_json(distribution_of(balance.routed))},
          {"max_over_mean_bound", to_json(distribution_of(balance.bound))},
          {"layer_steps", balance.total.size()},
          {"jit_copies", balance.num_jit_copies}};
}

Json to_json(const ExpertTimes& times) {
  const auto found = fit(times);
  if (!found) return nullptr;
  return {{"ns_per_expert", std::llround(found->ns_per_expert)},
          {"ns_per_token", std::llround(found->ns_per_token)},
          {"r_squared", found->r_squared},
          {"relative_error", found->relative_error},
          {"samples", found->num_samples}};
}

Json to_json(const RunStats& stats) {
  const PhaseSeconds& phases = stats.phases;
  return {
      {"steps", stats.num_steps},
      {"seconds", stats.seconds()},
      {"tokens_per_s", stats.tokens_per_second()},
      {"prefill",
       {{"tokens", stats.num_prefill_tokens},
        {"seconds", stats.prefill_seconds},
        {"tokens_per_s", stats.prefill_tokens_per_second()}}},
      {"decode",
       {{"tokens", stats.num_decode_tokens},
        {"seconds", stats.decode_seconds},
        {"tokens_per_s", stats.decode_tokens_per_second()}}},
      {"balance", to_json(stats.balance)},
      {"traffic", {{"messages", stats.traffic.num_messages}, {"bytes", stats.traffic.num_bytes}}},
      {"rank_seconds",
       {{"attention", phases.attention},
        {"routing", phases.routing},
        {"dispatch", phases.dispatch},
        {"experts", phases.experts},
        {"combine", phases.combine},
        {"other", phases.other}}},
      {"expert_time", to_json(stats.expert_times)}};
}

}  // namespace plimsoll
