// Choosing the next token from logits. The choice depends only on the logits, the parameters and
// the token's position, never on what else runs: the random numbers are a function of (seed,
// position).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

struct SamplingParams {
  float temperature = 0;  // 0: the most likely token
  float top_p = 1;        // keep the smallest set of tokens with at least this probability
  int32_t top_k = 0;      // keep the k most likely tokens; 0: all
  float min_p = 0;        // drop tokens less likely than this share of the most likely one
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0;
};

struct SampledToken {
  int32_t token = -1;
  float logprob = 0;              // under the model's own distribution, before any parameter
  std::vector<TokenLogprob> top;  // the most likely tokens, best first
};

// logits [vocab] are overwritten by penalties. `generated` holds the tokens that penalties count;
// `position` is the index of the token to choose within its sequence. Equal logits go to the lowest
// id. With num_top_logprobs < 0 no logprobs are computed: they cost an exponential for every token
// of the vocabulary.
SampledToken sample_token(std::span<float> logits,
                          const SamplingParams& params,
                          std::span<const int32_t> generated,
                          int64_t position,
                          int num_top_logprobs);

// The most likely tokens, best first; `normaliser` is the logits' log_sum_exp.
std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, int count, double normaliser);

// log(sum(exp(logits))), summed in double in the order given.
double log_sum_exp(std::span<const float> logits);

}  // namespace plimsoll
