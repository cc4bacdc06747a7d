#include "ep/expert_times.h"

#include <algorithm>
#include <cmath>

namespace plimsoll {

void ExpertTimes::add(int64_t num_experts, int64_t num_tokens, double seconds) {
  if (num_tokens == 0) return;
  const double x = static_cast<double>(num_experts) / static_cast<double>(num_tokens);
  const double y = seconds * 1e9 / static_cast<double>(num_tokens);
  ++num_samples;
  sum_x += x;
  sum_y += y;
  sum_xx += x * x;
  sum_xy += x * y;
  sum_yy += y * y;
}

ExpertTimes& ExpertTimes::operator+=(const ExpertTimes& more) {
  num_samples += more.num_samples;
  sum_x += more.sum_x;
  sum_y += more.sum_y;
  sum_xx += more.sum_xx;
  sum_xy += more.sum_xy;
  sum_yy += more.sum_yy;
  return *this;
}

std::optional<ExpertTimeFit> fit(const ExpertTimes& times) {
  if (times.num_samples < 3) return std::nullopt;
  const auto n = static_cast<double>(times.num_samples);
  const double mean_x = times.sum_x / n;
  const double mean_y = times.sum_y / n;
  const double variance_x = times.sum_xx / n - mean_x * mean_x;
  const double variance_y = times.sum_yy / n - mean_y * mean_y;
  if (variance_x < 1e-9 * mean_x * mean_x) return std::nullopt;
  const double slope = (times.sum_xy / n - mean_x * mean_y) / variance_x;
  ExpertTimeFit fit{.num_samples = times.num_samples};
  if (slope < 0) {
    fit.ns_per_token = mean_y;
  } else if (slope * mean_x > mean_y) {
    fit.ns_per_expert = times.sum_xy / times.sum_xx;
  } else {
    fit.ns_per_expert = slope;
    fit.ns_per_token = mean_y - slope * mean_x;
  }
  const double a = fit.ns_per_expert;
  const double b = fit.ns_per_token;
  const double squares = times.sum_yy + a * a * times.sum_xx + n * b * b - 2 * a * times.sum_xy -
                         2 * b * times.sum_y + 2 * a * b * times.sum_x;
  const double left = std::max(squares / n, 0.0);
  fit.r_squared = variance_y > 0 ? 1 - left / variance_y : 1;
  fit.relative_error = mean_y > 0 ? std::sqrt(left) / mean_y : 0;
  return fit;
}

}  // namespace plimsoll
