// The smallest maximum that exact routing gives one layer's load under a placement.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plimsoll/level.h"
#include "plimsoll/placement.h"

namespace plimsoll {

class ExactLoad {
 public:
  // replicas: the copies that count, at least one of every expert. Ranks marked 0 in active_ranks
  // (empty: none) hold nothing.
  ExactLoad(const ReplicaTable& replicas,
            int num_ranks,
            std::span<const uint8_t> active_ranks = {});

  // load: tokens of every expert. Whole tokens are routed, and none prefers a rank.
  int64_t max_load(std::span<const int64_t> load);

  // Of the last load: tokens of every rank, [num_ranks].
  std::span<const int64_t> rank_loads() const { return state_.load; }

  // Of the last load: the ranks whose load cannot leave them and which set the maximum.
  std::span<const uint8_t> bound_ranks() const { return bound_ranks_; }

 private:
  void start_even(std::span<const int64_t> load);

  ReplicaTable replicas_;
  std::vector<uint8_t> is_active_;
  LevelGraph graph_;
  LevelState state_;
  std::vector<int64_t> start_amount_;
  std::vector<int64_t> start_load_;
  std::vector<uint8_t> bound_ranks_;
};

}  // namespace plimsoll
