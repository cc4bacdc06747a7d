#include "cuda/model/gate.h"

#include "cuda/device/for_each.h"
#include "model/kernels/top_experts.h"

namespace plimsoll::gpu {
namespace {

struct ScoreExpert {
  float* scores;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const float g = scores[i];
    // Past 20, ln(1 + e^g) is g to the last bit.
    scores[i] = sqrtf(g > 20.0f ? g : log1pf(expf(g)));
  }
};

struct ChooseExperts {
  GateArgs args;

  PLIMSOLL_HD void operator()(int64_t t) const {
    const int k = args.top_k;
    const float* scores = args.scores + t * args.num_experts;
    int32_t* ids = args.ids + t * k;
    float* weights = args.weights + t * k;
    if (args.token_experts == nullptr) {
      pick_best(scores, args.bias, args.num_experts, k, weights, ids);
    } else {
      const int32_t* row = args.token_experts + int64_t{args.tokens[t]} * k;
      for (int i = 0; i < k; ++i) ids[i] = row[i];
    }
    float sum = 0;
    for (int i = 0; i < k; ++i) sum += scores[ids[i]];
    for (int i = 0; i < k; ++i) weights[i] = args.scaling * scores[ids[i]] / sum;
  }
};

}  // namespace

void choose_experts(Queue& queue, const GateArgs& args) {
  for_each(queue, int64_t{args.num_tokens} * args.num_experts, ScoreExpert{args.scores});
  for_each(queue, args.num_tokens, ChooseExperts{args});
}

}  // namespace plimsoll::gpu
