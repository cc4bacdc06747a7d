// One rank's end of the expert-parallel MoE layers: route, dispatch, experts, combine.
//
// The result for a token does not depend on where its experts ran: every (token, expert) product is
// computed row by row, and the home rank adds them in top-k order, the shared expert last, in
// float32.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "ep/exchange_in_place.h"
#include "ep/exchange_low_latency.h"
#include "ep/exchange_normal.h"
#include "ep/expert_times.h"
#include "ep/moe_compute.h"
#include "ep/moe_layout.h"
#include "plimsoll/just_in_time.h"
#include "plimsoll/result.h"

namespace plimsoll {

enum class StepMode { kNormal, kLowLatency };
enum class A2aBackend { kNone, kDeepep };

struct MoeOptions {
  A2aBackend backend = A2aBackend::kDeepep;
  int max_dispatch_tokens_per_rank = 128;  // capacity of a low-latency step
  int hidden_size = 0;
  int top_k = 0;
  RouteOptions route;
};

// A rank's tokens at an MoE layer: the choices on the host, the rows where its MoeCompute works.
struct MoeTokens {
  int num_tokens = 0;
  const float* rows = nullptr;        // [num_tokens, hidden_size]
  const int32_t* topk_ids = nullptr;  // [num_tokens, top_k], logical
  const float* topk_weights = nullptr;
};

struct MoeSeconds {
  double routing = 0;
  double dispatch = 0;
  double experts = 0;
  double combine = 0;
};

class MoeRank {
 public:
  // All references must outlive the rank; the layout may change between runs (switch_layer).
  MoeRank(Communicator& comm,
          const MoeLayout& layout,
          const MoeOptions& options,
          MoeCompute& compute);

  // out [num_tokens, hidden_size] = the routed experts' sum + the shared expert. Collective.
  Status run(int layer_idx, StepMode mode, const MoeTokens& tokens, float* out);

  // Of the last run: the whole group's routing, what this rank sent, and where its time went since
  // the last call of take_seconds().
  const JitPlan& last_plan() const { return plan_; }
  // [num_logical_experts]: tokens of all ranks that chose each expert.
  std::span<const int32_t> last_expert_counts() const { return workspace_.route.expert_total; }
  const ExchangeTraffic& last_traffic() const { return traffic_; }
  MoeSeconds take_seconds() { return std::exchange(seconds_, {}); }
  // A sample for each run that had experts to compute, since the last call.
  ExpertTimes take_expert_times() { return std::exchange(expert_times_, {}); }

 private:
  Status choose_targets(int layer_idx, const MoeTokens& tokens);
  void set_targets(const MoeTokens& tokens);
  template <typename Exchange>
  Status exchange(int layer_idx, const MoeTokens& tokens, Exchange& exchange, float* out);
  int expert_in(int layer_idx, int slot) const;
  Status compute_experts(int layer_idx);
  Status compute_shared_at_home(int layer_idx, const MoeTokens& tokens);

  Communicator& comm_;
  const MoeLayout& layout_;
  MoeOptions options_;
  MoeCompute& compute_;
  int num_columns_;  // top_k, and one more where the shared expert is routed

  JitWorkspace workspace_;
  JitPlan plan_;
  NormalExchange normal_;
  InPlaceExchange in_place_;
  std::unique_ptr<LowLatencyExchange> low_latency_;
  ExpertWork work_;
  ExchangeTraffic traffic_;
  MoeSeconds seconds_;
  ExpertTimes expert_times_;

  std::vector<int32_t> my_counts_,
      all_counts_;                        // [E + 1], [R, E + 1]: by expert, then active tokens
  std::vector<int32_t> counts_, active_;  // [R, E], [R]
  std::vector<int32_t> physical_ids_, shared_ranks_;  // [T, top_k], [T]
  std::vector<Target> targets_;                       // [T, columns]
  std::vector<float> weights_;                        // [T, columns]
  std::vector<const float*> results_;                 // [T, columns]
  const float* shared_at_home_ = nullptr;             // [T, hidden_size]; null with waterfill
  std::vector<int32_t> slots_;                        // of this rank, the shared expert last
};

}  // namespace plimsoll
