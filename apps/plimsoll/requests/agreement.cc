#include "requests/agreement.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "shared/sha256.h"

namespace plimsoll {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double abs_error(float computed, float golden) {
  const double error = std::abs(static_cast<double>(computed) - static_cast<double>(golden));
  return std::isnan(error) ? kInfinity : error;
}

double max_abs_error(const std::vector<float>& computed, const std::vector<float>& golden) {
  if (computed.size() != golden.size()) return kInfinity;
  double max = 0;
  for (size_t i = 0; i < golden.size(); ++i) max = std::max(max, abs_error(computed[i], golden[i]));
  return max;
}

double sum_abs_error(const std::vector<float>& computed, const std::vector<float>& golden) {
  if (computed.size() != golden.size()) return kInfinity;
  double sum = 0;
  for (size_t i = 0; i < golden.size(); ++i) sum += abs_error(computed[i], golden[i]);
  return sum;
}

Mismatches compare_experts(std::vector<int32_t> expected, std::vector<int32_t> computed, size_t k) {
  Mismatches mismatches{.count = 0, .of = static_cast<int64_t>(expected.size() / k)};
  if (computed.size() != expected.size()) return {mismatches.of, mismatches.of};
  for (size_t at = 0; at < expected.size(); at += k) {
    std::sort(&expected[at], &expected[at] + k);
    std::sort(&computed[at], &computed[at] + k);
    mismatches.count += !std::equal(&expected[at], &expected[at] + k, &computed[at]);
  }
  return mismatches;
}

Mismatches compare_tokens(const std::vector<int32_t>& golden,
                          const std::vector<int32_t>& computed) {
  Mismatches mismatches{.count = 0, .of = static_cast<int64_t>(golden.size())};
  for (size_t i = 0; i < golden.size(); ++i) {
    mismatches.count += i >= computed.size() || computed[i] != golden[i];
  }
  return mismatches;
}

void add(const Mismatches& more, Mismatches& sum) {
  sum.count += more.count;
  sum.of += more.of;
}

}  // namespace

bool Agreement::passed() const {
  return mean_abs_nll_error <= 1e-4 && max_abs_logit_error <= 1e-2 && expert_ids.within(0.001) &&
         greedy.within(0.01);
}

Agreement compare(const std::vector<GoldenPrompt>& golden,
                  const std::vector<ComputedPrompt>& computed,
                  int experts_per_token) {
  Agreement agreement;
  Sha256 hash;
  double nll_error = 0;
  int64_t num_nll = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    agreement.max_abs_logit_error = std::max(agreement.max_abs_logit_error,
                                             max_abs_error(computed[i].logits, golden[i].logits));
    nll_error += sum_abs_error(computed[i].nll, golden[i].nll);
    num_nll += static_cast<int64_t>(golden[i].nll.size());
    add(compare_experts(golden[i].expert_ids, computed[i].expert_ids, experts_per_token),
        agreement.expert_ids);
    add(compare_tokens(golden[i].greedy, computed[i].greedy), agreement.greedy);
    hash.update(std::as_bytes(std::span(computed[i].logits)));
  }
  agreement.mean_abs_nll_error = nll_error / static_cast<double>(std::max<int64_t>(num_nll, 1));
  agreement.logits_sha256 = hash.hex_digest();
  return agreement;
}

}  // namespace plimsoll
