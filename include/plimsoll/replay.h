// Replay: what a placement and a way of routing would have done with recorded traffic.
//
// The traffic is cut into batches; every batch is routed layer by layer, and the loads of the ranks
// are compared. All loads count the shared experts too, in the units of the routing's objective:
// tokens at the usual shared cost of 1, experts at work, or nanoseconds.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "plimsoll/just_in_time.h"
#include "plimsoll/just_in_time_rules.h"
#include "plimsoll/placement.h"
#include "plimsoll/result.h"
#include "plimsoll/route.h"
#include "plimsoll/trace.h"

namespace plimsoll {

struct ReplayOptions {
  // Of all ranks together; a batch is dealt out to the ranks in equal runs. Tokens that fill no
  // whole batch at the end are left out, unless there is no whole one.
  int64_t batch_tokens = 4096;
  bool shuffle = false;  // tokens of the whole trace mixed, as in decoding; else in their order
  uint64_t seed = 0;     // of the shuffle
  int num_threads = 1;
  std::optional<JitRule> jit_rule;  // by this rule instead, instead of jit_route()
};

struct Quantiles {
  double mean = 0, p50 = 0, p99 = 0, max = 0;  // nearest rank
};

// Over all layers of all batches. A layer of a batch in which nobody had work counts nowhere.
struct ReplayStats {
  int64_t num_batches = 0;
  int64_t num_tokens = 0;
  Quantiles max_over_mean;     // the fullest rank over the mean rank: 1 is best. vLLM-Ascend's PAR
  Quantiles bound_over_mean;   // of a load below which no routing of the batch has its maximum
  double time_weighted = 0;    // sum of the maxima over the sum of the means
  double balancedness = 0;     // SGLang's: mean of (mean + 1e-5) / (max + 1e-5)
  double imbalance_ratio = 0;  // TensorRT-LLM's: mean of max/mean - 1
  // Other ranks that a token is sent to, per token and layer (normal mode: once a rank); NaN where
  // only counts were recorded.
  double messages_per_token = 0;
  double copies_per_batch = 0;         // just in time, a layer and batch
  double fewest_copies_per_batch = 0;  // no fewer would have done
  double time_with_copies = 1;         // predicted, over the time without; where copies have a cost
  double local_share = 0;  // (token, expert) pairs, shared included, computed at the token's home
};

struct LayerReplay {
  Quantiles max_over_mean;
  double bound_over_mean = 0;      // mean
  std::vector<int64_t> rank_load;  // [num_ranks], all batches together
};

struct Replay {
  ReplayStats stats;
  std::vector<LayerReplay> layers;
};

// Told how many of how many layers are done, by any thread but one at a time.
using ReplayProgress = std::function<void(int64_t done, int64_t total)>;

// Fails where the trace does not fit the placement, and on impossible options.
Result<Replay> replay(const ExpertTrace& trace,
                      const Placement& placement,
                      const RouteOptions& route,
                      const ReplayOptions& options,
                      const ReplayProgress& progress = nullptr);

// The same for counts: every step is a batch, its counts spread evenly over the source ranks. top_k
// says how many tokens they are of. Only num_threads of the options is used. Fails too by one of
// SGLang's waterfill rules, which draw for every token.
Result<Replay> replay(const LoadHistory& load,
                      int top_k,
                      const Placement& placement,
                      const RouteOptions& route,
                      const ReplayOptions& options,
                      const ReplayProgress& progress = nullptr);

}  // namespace plimsoll
