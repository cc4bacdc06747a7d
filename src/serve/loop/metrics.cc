#include "serve/loop/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <map>

#include "engine/rebalance/balance_summary.h"

namespace plimsoll {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

void set(Counter& counter, double value) {
  counter.Increment(value - counter.Value());
}

constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();
const Histogram::BucketBoundaries kLatencyBuckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300};
const Histogram::BucketBoundaries kRatioBuckets = {1.001, 1.01, 1.02, 1.05, 1.1, 1.2,
                                                   1.3,   1.5,  2,    3,    5,   8};

}  // namespace

struct Metrics::Series {
  using Labels = prometheus::Labels;

  Series(const MetricsOptions& options)
      : labels{{"model_name", options.model_name}}, per_layer(options.per_layer) {}

  Counter& counter(const char* name, const char* help, Labels more = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(labels).Register(registry).Add(
        more);
  }
  Gauge& gauge(const char* name, const char* help, Labels more = {}) {
    return prometheus::BuildGauge().Name(name).Help(help).Labels(labels).Register(registry).Add(
        more);
  }
  // One counter for each value of the label, all there from the start: a rate can be taken of what
  // happens for the first time, and the number of series is known.
  std::map<std::string, Counter*> counters(const char* name,
                                           const char* help,
                                           const char* label,
                                           std::initializer_list<const char*> values) {
    std::map<std::string, Counter*> by_value;
    for (const char* value : values) by_value[value] = &counter(name, help, {{label, value}});
    return by_value;
  }
  Histogram& histogram(const char* name,
                       const char* help,
                       const Histogram::BucketBoundaries& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry).Add(
        {}, buckets);
  }

  Labels labels;
  bool per_layer;
  int num_ranks_seen = 0;
  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Merge};

  Gauge& running = gauge("plimsoll_requests_running", "Requests being computed.");
  Gauge& waiting = gauge("plimsoll_requests_waiting", "Requests waiting for a rank.");
  std::map<std::string, Counter*> ended = counters("plimsoll_requests_total",
                                                   "Requests ended, by reason.",
                                                   "reason",
                                                   {"stop", "length", "cancelled"});
  Gauge& state_tokens = gauge("plimsoll_state_tokens", "Tokens that running sequences hold.");
  Gauge& state_bytes =
      gauge("plimsoll_state_memory_bytes", "Memory set aside for the state of running sequences.");
  Gauge& state_used = gauge("plimsoll_state_memory_used_ratio",
                            "Of the fullest rank: its share of tokens or of memory in use, "
                            "whichever is more; at 1 a request is sent back to wait.");
  Counter& preemptions =
      counter("plimsoll_preemptions_total", "Requests sent back to wait for state memory.");
  Counter& prompt_tokens = counter("plimsoll_prompt_tokens_total", "Prompt tokens computed.");
  Counter& generated_tokens = counter("plimsoll_generation_tokens_total", "Tokens generated.");
  Histogram& queue_time = histogram("plimsoll_queue_time_seconds",
                                    "From a request's arrival to its first step.",
                                    kLatencyBuckets);
  Histogram& first_token = histogram("plimsoll_time_to_first_token_seconds",
                                     "From a request's arrival to its first token.",
                                     kLatencyBuckets);
  Histogram& inter_token = histogram("plimsoll_inter_token_latency_seconds",
                                     "From one token of a request to its next.",
                                     kLatencyBuckets);
  Histogram& request_time = histogram("plimsoll_e2e_request_latency_seconds",
                                      "From a request's arrival to its last token.",
                                      kLatencyBuckets);
  std::map<std::string, Counter*> steps = counters("plimsoll_steps_total",
                                                   "Steps of all ranks, by dispatch mode.",
                                                   "mode",
                                                   {"normal", "low_latency"});
  Histogram& step_time = histogram(
      "plimsoll_step_duration_seconds", "Duration of one step of all ranks.", kLatencyBuckets);
  Histogram& imbalance = histogram("plimsoll_step_max_over_mean_ratio",
                                   "Fullest rank over the mean of a layer, the layers' mean in a "
                                   "step; 1 is level.",
                                   kRatioBuckets);
  Gauge& last_max = gauge("plimsoll_balance_max_over_mean_ratio",
                          "Fullest rank over the mean of a layer, the layers' mean in the last "
                          "step.");
  Gauge& last_min = gauge("plimsoll_balance_min_over_mean_ratio",
                          "Emptiest rank over the mean of a layer, the layers' mean in the last "
                          "step.");
  Gauge& last_worst = gauge("plimsoll_balance_worst_layer_ratio",
                            "Fullest rank over the mean of the worst layer of the last step.");
  Gauge& last_bound = gauge("plimsoll_balance_bound_ratio",
                            "The least plimsoll_balance_max_over_mean_ratio that any routing of "
                            "the last step could have reached.");
  std::map<std::string, Counter*> loads = counters(
      "plimsoll_balance_load_total",
      "Load of each layer's fullest (max), emptiest (min) and mean rank, the least maximum that "
      "any "
      "routing could have reached (bound), and the maximum had every shared expert run at home "
      "(home); summed over layers and steps.",
      "of",
      {"max", "min", "mean", "bound", "home"});
  Counter& messages =
      counter("plimsoll_dispatched_messages_total", "Token rows sent to another rank.");
  Counter& bytes = counter("plimsoll_dispatched_bytes_total",
                           "Bytes sent to other ranks by dispatch and combine.");
  Counter& moved = counter("plimsoll_waterfill_moved_tokens_total",
                           "Shared-expert tokens computed away from their home rank.");
  Counter& jit_copies = counter("plimsoll_jit_copies_total",
                                "Experts copied just in time, for one layer of one step.");
  Counter& jit_saved = counter("plimsoll_jit_saved_load_total",
                               "Load that such copies took off the fullest rank of their layer; "
                               "summed over layers and steps.");

  Gauge& living_ranks = gauge("plimsoll_living_ranks",
                              "Ranks of processes that live; fewer than --ep-size after a "
                              "death, with --elastic.");
  Counter& restarts = counter("plimsoll_elastic_restarts_total",
                              "Times that the ranks went on without processes that had died.");
  Counter& restart_time = counter("plimsoll_elastic_restart_seconds_total",
                                  "From the failure of a step to the next one, those times.");

  std::map<std::string, Counter*> rebalances =
      counters("plimsoll_eplb_rebalances_total",
               "Rebalances by result; skipped: level enough, or no layer gains.",
               "result",
               {"switched", "skipped", "failed"});
  Counter& switched_layers =
      counter("plimsoll_eplb_switched_layers_total", "Layers given another placement.");
  Counter& moved_experts = counter("plimsoll_eplb_moved_experts_total",
                                   "Experts that had to come to a rank that did not hold them.");
  Gauge& longest_pause =
      gauge("plimsoll_eplb_longest_pause_seconds", "Longest switch between two steps.");

  std::map<std::string, Counter*> hand_overs_ended = counters("plimsoll_hand_overs_total",
                                                              "Prompts handed over, by end.",
                                                              "result",
                                                              {"done", "failed", "cancelled"});
  Gauge& hand_overs = gauge("plimsoll_hand_overs_in_flight",
                            "Prompts being handed from a prefill to a decode server.");
  Counter& hand_over_bytes =
      counter("plimsoll_hand_over_bytes_total", "Bytes of sequence states handed over.");
  Histogram& hand_over_time =
      histogram("plimsoll_hand_over_seconds",
                "From a prompt's sending to a prefill server to its state's arrival.",
                kLatencyBuckets);
  Histogram& transfer_time =
      histogram("plimsoll_hand_over_transfer_seconds",
                "The part of it in which the prefill server was not computing the prompt.",
                kLatencyBuckets);
};

Metrics::Metrics(const MetricsOptions& options) : series_(std::make_unique<Series>(options)) {}
Metrics::~Metrics() = default;

void Metrics::set_scheduler(const Scheduler& scheduler) {
  series_->running.Set(scheduler.num_running());
  series_->waiting.Set(scheduler.num_waiting());
  series_->state_tokens.Set(static_cast<double>(scheduler.num_state_tokens()));
  series_->state_bytes.Set(static_cast<double>(scheduler.num_state_bytes()));
  series_->state_used.Set(scheduler.state_use());
  set(series_->preemptions, static_cast<double>(scheduler.num_preemptions()));
}

int Metrics::num_running() const {
  return static_cast<int>(series_->running.Value());
}
int Metrics::num_waiting() const {
  return static_cast<int>(series_->waiting.Value());
}

void Metrics::count_request(FinishReason reason) {
  const char* word = reason == FinishReason::kStop     ? "stop"
                     : reason == FinishReason::kLength ? "length"
                                                       : "cancelled";
  series_->ended.at(word)->Increment();
}

void Metrics::observe_queue(double seconds) {
  series_->queue_time.Observe(seconds);
}

void Metrics::observe_first_token(double seconds, int64_t num_prompt_tokens) {
  series_->first_token.Observe(seconds);
  series_->prompt_tokens.Increment(static_cast<double>(num_prompt_tokens));
  series_->generated_tokens.Increment();
}

void Metrics::observe_inter_token(double seconds) {
  series_->inter_token.Observe(seconds);
  series_->generated_tokens.Increment();
}

void Metrics::observe_request(double seconds) {
  series_->request_time.Observe(seconds);
}

void Metrics::set_living_ranks(int num_ranks) {
  series_->living_ranks.Set(num_ranks);
}

void Metrics::set_elastic(const ElasticStats& stats) {
  set(series_->restarts, static_cast<double>(stats.num_restarts));
  set(series_->restart_time, stats.restart_seconds);
}

void Metrics::set_rebalancing(const RebalanceStats& stats) {
  set(*series_->rebalances.at("switched"), static_cast<double>(stats.num_rebalances));
  set(*series_->rebalances.at("skipped"), static_cast<double>(stats.num_skipped));
  set(*series_->rebalances.at("failed"), static_cast<double>(stats.num_failed));
  set(series_->switched_layers, static_cast<double>(stats.num_switched_layers));
  set(series_->moved_experts, static_cast<double>(stats.num_moved_experts));
  series_->longest_pause.Set(stats.longest_pause_seconds);
  if (!stats.last || stats.last->num_layers == 0) return;
  const auto set_ratio = [&](const char* when, double value) {
    series_
        ->gauge("plimsoll_eplb_max_over_mean_ratio",
                "Fullest rank over the mean, all layers: before the last rebalance, predicted "
                "for it, and measured after it; with --enable-eplb.",
                {{"when", when}})
        .Set(value);
  };
  set_ratio("before", stats.last->max_over_mean_before);
  set_ratio("predicted", stats.last->max_over_mean_predicted);
  set_ratio("measured", stats.last->max_over_mean_measured.value_or(kNoValue));
}

void Metrics::observe_step(const StepPlan& plan, const StepResult& result, double seconds) {
  const bool normal = plan.mode == StepMode::kNormal;
  series_->steps.at(normal ? "normal" : "low_latency")->Increment();
  series_->step_time.Observe(seconds);
  for (const RankResult& rank : result.ranks) {
    series_->messages.Increment(static_cast<double>(rank.traffic.num_messages));
    series_->bytes.Increment(static_cast<double>(rank.traffic.num_bytes));
  }
  series_->moved.Increment(static_cast<double>(result.balance.num_shared_moved));
  series_->jit_copies.Increment(static_cast<double>(result.balance.num_jit_copies));
  series_->jit_saved.Increment(static_cast<double>(result.balance.jit_saved_load));
  const BalanceSummary summary = summarize(result.balance);
  if (summary.num_layers == 0) return;
  series_->imbalance.Observe(summary.mean_ratio);
  series_->last_max.Set(summary.mean_ratio);
  series_->last_min.Set(summary.min_ratio);
  series_->last_worst.Set(summary.worst_ratio);
  series_->last_bound.Set(summary.bound_ratio);
  const auto add_load = [&](const char* of, double pairs) {
    series_->loads.at(of)->Increment(pairs);
  };
  add_load("max", static_cast<double>(summary.max_load));
  add_load("min", static_cast<double>(summary.min_load));
  add_load("mean", summary.mean_load);
  add_load("bound", static_cast<double>(summary.bound_load));
  add_load("home", static_cast<double>(summary.home_load));
  if (!series_->per_layer) return;
  const StepBalance& balance = result.balance;
  series_->num_ranks_seen = std::max(series_->num_ranks_seen, balance.num_ranks);
  for (int l = 0; l < balance.num_layers; ++l) {
    for (int r = 0; r < series_->num_ranks_seen; ++r) {
      const bool lives = r < balance.num_ranks;
      series_
          ->gauge("plimsoll_rank_load",
                  "Load of a rank at a layer in the last step; with --expert-metrics-per-layer.",
                  {{"layer", std::to_string(l)}, {"rank", std::to_string(r)}})
          .Set(lives ? static_cast<double>(balance.total_load[l * balance.num_ranks + r])
                     : kNoValue);
    }
  }
}

void Metrics::set_hand_overs(int num_in_flight) {
  series_->hand_overs.Set(num_in_flight);
}

void Metrics::count_hand_over(const char* result, int64_t num_bytes) {
  series_->hand_overs_ended.at(result)->Increment();
  series_->hand_over_bytes.Increment(static_cast<double>(num_bytes));
}

void Metrics::observe_hand_over(double seconds, double transfer_seconds) {
  series_->hand_over_time.Observe(seconds);
  series_->transfer_time.Observe(transfer_seconds);
}

std::string Metrics::text() const {
  return prometheus::TextSerializer().Serialize(series_->registry.Collect());
}

}  // namespace plimsoll
