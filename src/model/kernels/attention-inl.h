// Softmax with a sink, compression windows and the indexer's choice, for the kernel variants.
#pragma once

#include "model/kernels/elementwise-inl.h"

namespace plimsoll::PLIMSOLL_KERNELS {
namespace {

// Sixteen lanes of a softmax; keys in order, so that a key no lane sees changes nothing.
inline void softmax_lanes(const SoftmaxArgs& args, int lane) {
  const F16 unseen = broadcast(-__builtin_inff());
  const F16 sink = load(args.sink + lane);
  F16 maximum = sink;
  float* logits = args.logits + lane;
  for (const SoftmaxArgs::Run& run : args.runs) {
    if (run.num_keys == 0) continue;
    const F16 first = load(run.first + lane);
    const F16 last = load(run.last + lane);
    for (int j = 0; j < run.num_keys; ++j, logits += kPanelLanes) {
      const F16 key = broadcast(run.offset + static_cast<float>(j));
      const Mask seen = both(less(key, last), less(first, key + broadcast(1.0f)));
      const F16 logit = select(seen, load(logits), unseen);
      store(logits, logit);
      maximum = max(maximum, logit);
    }
  }
  F16 sum = zero();
  const float* end = logits;
  for (logits = args.logits + lane; logits != end; logits += kPanelLanes) {
    const F16 probability = exp(load(logits) - maximum);
    store(logits, probability);
    sum = sum + probability;
  }
  store(args.scale + lane, broadcast(1.0f) / (sum + exp(sink - maximum)));
}

inline void softmax(const SoftmaxArgs& args) {
  for (int lane = 0; lane < args.num_lanes; lane += kLanes) softmax_lanes(args, lane);
}

inline void compress(
    const float* const* kv, const float* const* score, int num_rows, int dim, float* out) {
  for (int d = 0; d < dim; d += kLanes) {
    const int lanes = dim - d;
    F16 maximum = load_partial(score[0] + d, lanes);
    for (int r = 1; r < num_rows; ++r) maximum = max(maximum, load_partial(score[r] + d, lanes));
    F16 sum = zero();
    F16 value = zero();
    for (int r = 0; r < num_rows; ++r) {
      const F16 weight = exp(load_partial(score[r] + d, lanes) - maximum);
      sum = sum + weight;
      value = fma(weight, load_partial(kv[r] + d, lanes), value);
    }
    store_partial(out + d, value / sum, lanes);
  }
}

inline void indexer_scores(const float* dots,
                           ptrdiff_t dots_stride,
                           const float* weights,
                           int num_heads,
                           int count,
                           float* scores) {
  for (int i = 0; i < count; i += kLanes) {
    F16 sum = zero();
    for (int h = 0; h < num_heads; ++h) {
      const F16 dot = load_partial(dots + h * dots_stride + i, count - i);
      sum = fma(broadcast(weights[h]), max(dot, zero()), sum);
    }
    store_partial(scores + i, sum, count - i);
  }
}

// Orders as the floats do, as unsigned integers.
inline uint32_t sortable(float score) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline bool select_top(const float* scores, int count, int k, uint32_t* scratch, int32_t* indices) {
  for (int i = 0; i < count; ++i) scratch[i] = sortable(scores[i]);
  // The largest threshold that at least k scores reach, found bit by bit.
  uint32_t threshold = 0;
  int reached_by = count;
  for (uint32_t bit = 0x80000000u; bit != 0 && reached_by != k; bit >>= 1) {
    int reached = 0;
    for (int i = 0; i < count; ++i) reached += scratch[i] >= (threshold | bit);
    if (reached < k) continue;
    threshold |= bit;
    reached_by = reached;
  }
  if (reached_by != k) return false;
  for (int i = 0; i < count; ++i) {
    if (scratch[i] >= threshold) *indices++ = i;
  }
  return true;
}

}  // namespace
}  // namespace plimsoll::PLIMSOLL_KERNELS
