// The last steps' balance, and the placement they ran in, for /expert_balance and the page that
// shows it.
#pragma once

#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/engine.h"

namespace plimsoll {

class BalanceLog {
 public:
  explicit BalanceLog(size_t num_steps_max) : num_steps_max_(num_steps_max) {}

  // On the engine's thread: before the first step, and after every one.
  void set_placement(const Engine& engine);
  void add(const Engine& engine);
  // Per layer: tokens by rank, max/mean before (shared expert at home) and after routing, and the
  // bound, over the last `num_steps` steps; and those steps one by one. From any thread.
  nlohmann::ordered_json to_json(size_t num_steps) const;
  // What --enable-eplb did so far; null without it.
  nlohmann::ordered_json rebalancing() const;
  Placement placement() const;  // in force

 private:
  struct Step {
    bool low_latency = false;
    int num_tokens = 0;
    StepBalance balance;
  };

  const size_t num_steps_max_;
  mutable std::mutex mutex_;
  std::deque<Step> steps_;
  int64_t num_steps_ = 0;  // since the start
  int64_t num_tokens_ = 0;
  std::optional<RebalanceStats> rebalancing_;
  Placement placement_;
};

}  // namespace plimsoll
