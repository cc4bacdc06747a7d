// What an expert at work costs: time = a * experts at work + b * tokens, a and b from measurements.
#pragma once

#include <cstdint>
#include <optional>

namespace plimsoll {

// Sums over samples, one for each time that a rank computed its experts of a layer, and one for its
// shared expert where that is apart. Divided by the tokens the model is a line:
// time per token = a * experts per token + b. Steps of many and of few tokens then count alike.
struct ExpertTimes {
  int64_t num_samples = 0;
  double sum_x = 0, sum_y = 0;  // experts per token; ns per token
  double sum_xx = 0, sum_xy = 0, sum_yy = 0;

  // num_tokens: (token, expert) pairs; none adds nothing.
  void add(int64_t num_experts, int64_t num_tokens, double seconds);
  ExpertTimes& operator+=(const ExpertTimes& more);
};

struct ExpertTimeFit {
  double ns_per_expert = 0;
  double ns_per_token = 0;
  double r_squared = 0;       // share of the variance of the time per token that the line explains
  double relative_error = 0;  // root mean square of what it leaves, over the mean time per token
  int64_t num_samples = 0;
};

// By least squares, neither below 0. Nothing where the samples do not differ in experts per token.
std::optional<ExpertTimeFit> fit(const ExpertTimes& times);

}  // namespace plimsoll
