// What a run of many steps measured: tokens and time of prefill and decode apart, how level the
// ranks were, and where the time went.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/schedule/step.h"

namespace plimsoll {

// Mean, nearest-rank percentiles and maximum of a sample; zeros of an empty one.
struct Distribution {
  double mean = 0, p50 = 0, p99 = 0, max = 0;
};
Distribution distribution_of(std::vector<double> values);

// Max/mean over the ranks of (token, expert) pairs computed; one entry for each layer of each step
// in which any rank had work.
struct BalanceStats {
  std::vector<double> routed;  // without the shared expert
  std::vector<double> total;   // with it
  std::vector<double> bound;   // the least that `total` could have been
  int64_t num_jit_copies = 0;  // experts copied just in time

  void add(const StepBalance& step);
};

struct RunStats {
  int64_t num_steps = 0;
  int64_t num_prefill_tokens = 0;
  int64_t num_sampled_tokens = 0;
  int64_t num_decode_tokens = 0;  // those sampled in steps without any prompt token
  double prefill_seconds = 0;     // steps with any prompt token
  double decode_seconds = 0;      // the others
  PhaseSeconds phases;            // summed over ranks
  ExpertTimes expert_times;       // of all ranks, layers and steps
  ExchangeTraffic traffic;        // all ranks together
  BalanceStats balance;

  double seconds() const { return prefill_seconds + decode_seconds; }
  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;
  // Prompt and sampled tokens together, over all the time.
  double tokens_per_second() const;
};

using Json = nlohmann::ordered_json;
Json to_json(const Distribution& distribution);
Json to_json(const BalanceStats& balance);
Json to_json(const ExpertTimes& times);  // null where nothing can be said
Json to_json(const RunStats& stats);

}  // namespace plimsoll
