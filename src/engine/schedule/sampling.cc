#include "engine/schedule/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

namespace plimsoll {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014) of a counter: a uniform number in [0, 1) for each position.
double uniform_at(uint64_t seed, uint64_t position) {
  uint64_t z = seed + 0x9E3779B97F4A7C15u * (position + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

bool more_likely(std::span<const float> logits, int32_t a, int32_t b) {
  return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
}

// The ids of the n most likely tokens, best first.
std::vector<int32_t> most_likely(std::span<const float> logits, size_t n) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [&](int32_t a, int32_t b) { return more_likely(logits, a, b); };
  n = std::min(n, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + n, ids.end(), better);
  ids.resize(n);
  return ids;
}

void apply_penalties(std::span<float> logits,
                     const SamplingParams& params,
                     std::span<const int32_t> generated) {
  std::unordered_map<int32_t, int> counts;
  for (int32_t token : generated) ++counts[token];
  for (const auto& [token, count] : counts) {
    logits[token] -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
  }
}

// The tokens that top_k, top_p and min_p leave, and their weights relative to the most likely
// token.
struct Candidates {
  std::vector<int32_t> ids;
  std::vector<double> weights;
  double total = 0;
};

Candidates candidates(std::span<const float> logits, const SamplingParams& params) {
  const bool truncates = params.top_k > 0 || params.top_p < 1 || params.min_p > 0;
  Candidates all;
  if (truncates) {
    all.ids = most_likely(logits, params.top_k > 0 ? params.top_k : logits.size());
  } else {
    all.ids.resize(logits.size());
    std::iota(all.ids.begin(), all.ids.end(), 0);
  }
  const double top = *std::ranges::max_element(logits);
  for (int32_t id : all.ids) {
    all.weights.push_back(std::exp((logits[id] - top) / params.temperature));
    all.total += all.weights.back();
  }
  if (!truncates) return all;

  size_t num_kept = 0;
  double kept = 0;
  while (num_kept < all.ids.size() && (num_kept == 0 || (kept < params.top_p * all.total &&
                                                         all.weights[num_kept] >= params.min_p))) {
    kept += all.weights[num_kept++];
  }
  all.ids.resize(num_kept);
  all.total = kept;
  return all;
}

int32_t draw(std::span<const float> logits, const SamplingParams& params, int64_t position) {
  const Candidates left = candidates(logits, params);
  double remaining = uniform_at(params.seed, position) * left.total;
  for (size_t i = 0; i < left.ids.size(); ++i) {
    remaining -= left.weights[i];
    if (remaining < 0) return left.ids[i];
  }
  return left.ids.back();
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits,
                                       int count,
                                       double normaliser) {
  std::vector<TokenLogprob> top;
  for (int32_t id : most_likely(logits, count)) {
    top.push_back({id, static_cast<float>(logits[id] - normaliser)});
  }
  return top;
}

SampledToken sample_token(std::span<float> logits,
                          const SamplingParams& params,
                          std::span<const int32_t> generated,
                          int64_t position,
                          int num_top_logprobs) {
  const bool wants_logprobs = num_top_logprobs >= 0;
  const double normaliser = wants_logprobs ? log_sum_exp(logits) : 0;
  SampledToken sampled;
  if (num_top_logprobs > 0) sampled.top = top_logprobs(logits, num_top_logprobs, normaliser);
  const bool penalised = params.presence_penalty != 0 || params.frequency_penalty != 0;
  const std::vector<float> own(penalised ? logits.begin() : logits.end(), logits.end());
  if (penalised) apply_penalties(logits, params, generated);
  sampled.token = params.temperature > 0
                      ? draw(logits, params, position)
                      : static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
  if (wants_logprobs) {
    const double logit = penalised ? own[sampled.token] : logits[sampled.token];
    sampled.logprob = static_cast<float>(logit - normaliser);
  }
  return sampled;
}

}  // namespace plimsoll
