// What the server measures, in Prometheus' text format; docs/metrics.md lists every metric.
#pragma once

#include <memory>
#include <string>

#include "engine/elastic_stats.h"
#include "engine/rebalance/rebalancer.h"
#include "engine/schedule/request.h"
#include "engine/schedule/scheduler.h"
#include "engine/schedule/step.h"

namespace plimsoll {

struct MetricsOptions {
  std::string model_name;
  bool per_layer = false;  // layer x rank loads too (--expert-metrics-per-layer)
};

// All calls are safe from any thread.
class Metrics {
 public:
  explicit Metrics(const MetricsOptions& options);
  ~Metrics();

  void set_scheduler(const Scheduler& scheduler);
  int num_running() const;
  int num_waiting() const;
  void count_request(FinishReason reason);
  void observe_queue(double seconds);
  void observe_first_token(double seconds, int64_t num_prompt_tokens);
  void observe_inter_token(double seconds);
  void observe_request(double seconds);
  void set_living_ranks(int num_ranks);
  void set_elastic(const ElasticStats& stats);
  void set_rebalancing(const RebalanceStats& stats);
  // Of prompts handed from a prefill server to a decode server, at either end.
  void set_hand_overs(int num_in_flight);
  void count_hand_over(const char* result, int64_t num_bytes = 0);  // done, failed, cancelled
  void observe_hand_over(double seconds, double transfer_seconds);  // at the decode server
  void observe_step(const StepPlan& plan, const StepResult& result, double seconds);

  std::string text() const;

 private:
  struct Series;
  std::unique_ptr<Series> series_;
};

}  // namespace plimsoll
