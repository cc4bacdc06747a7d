#include "model/forward/rope.h"

#include <algorithm>
#include <cmath>

#include "model/checkpoint/config.h"

namespace plimsoll {
namespace {

std::vector<float> plain_frequencies(double base, int dim) {
  std::vector<float> frequencies;
  for (int i = 0; i < dim; i += 2) {
    const float power = static_cast<float>(std::pow(base, static_cast<double>(i) / dim));
    frequencies.push_back(1.0f / power);
  }
  return frequencies;
}

// The pair whose wave turns `rotations` times within the original context (a real number).
double correction_pair(double rotations, double base, int dim, double original_context) {
  constexpr double kPi = 3.14159265358979323846;
  return dim * std::log(original_context / (rotations * 2 * kPi)) / (2 * std::log(base));
}

}  // namespace

std::vector<float> main_frequencies(const ModelConfig& config) {
  return plain_frequencies(config.rope_theta, config.qk_rope_head_dim);
}

std::vector<float> compress_frequencies(const ModelConfig& config) {
  const double base = config.compress_rope_theta;
  const int dim = config.qk_rope_head_dim;
  std::vector<float> frequencies = plain_frequencies(base, dim);
  if (!config.rope_scaling) return frequencies;
  const auto& yarn = *config.rope_scaling;
  const double context = yarn.original_max_position_embeddings;
  // Pairs up to `low` keep their frequency, pairs from `high` on are slowed by the whole factor.
  const double low = std::max(std::floor(correction_pair(yarn.beta_fast, base, dim, context)), 0.0);
  double high = std::min(std::ceil(correction_pair(yarn.beta_slow, base, dim, context)), dim - 1.0);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double plain = frequencies[i];
    frequencies[i] = static_cast<float>(plain / yarn.factor * slowed + plain * (1 - slowed));
  }
  return frequencies;
}

void rotation_at(const std::vector<float>& frequencies, int64_t position, float* out) {
  const size_t n = frequencies.size();
  for (size_t i = 0; i < n; ++i) {
    // The angle is rounded to float32, as everywhere this model has been trained and run.
    const float angle = static_cast<float>(position) * frequencies[i];
    out[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    out[n + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

}  // namespace plimsoll
