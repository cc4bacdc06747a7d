// How far computed answers are from golden ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/checkpoint/golden.h"

namespace plimsoll {

// What the engine computed for a golden prompt, in the shapes of GoldenPrompt.
struct ComputedPrompt {
  std::vector<float> logits;
  std::vector<float> nll;
  std::vector<int32_t> expert_ids;
  std::vector<int32_t> greedy;
};

struct Mismatches {
  int64_t count = 0;
  int64_t of = 0;

  bool within(double share) const {
    return static_cast<double>(count) <= share * static_cast<double>(of);
  }
};

struct Agreement {
  double max_abs_logit_error = 0;
  double mean_abs_nll_error = 0;
  Mismatches expert_ids;      // (layer, token) pairs whose sets of experts differ
  Mismatches greedy;          // tokens, position by position
  std::string logits_sha256;  // of all computed logits as little-endian float32, in prompt order

  // Within the tolerances: mean |nll| 1e-4, max |logit| 1e-2, experts 99.9 %, greedy tokens 99 %.
  bool passed() const;
};

// Both lists are of the same prompts. Answers of another length than the golden ones, or that are
// not numbers, count as infinitely far off.
Agreement compare(const std::vector<GoldenPrompt>& golden,
                  const std::vector<ComputedPrompt>& computed,
                  int experts_per_token);

}  // namespace plimsoll
