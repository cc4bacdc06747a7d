// Manifold-constrained hyper-connections: a block reads a weighted sum of the residual streams and
// writes its output back into all of them. Plain float32 kernels; at most kMostStreams streams.
#pragma once

#include "cuda/device/queue.h"

namespace plimsoll::gpu {

inline constexpr int kMostStreams = 8;

struct HyperMix {
  const float* streams = nullptr;  // [num_tokens, num_streams, dim]
  int num_tokens = 0, num_streams = 0, dim = 0;
  float norm_eps = 0, eps = 0;
  int sinkhorn_iterations = 0;
  const float* mix = nullptr;    // [num_tokens, (2 + n) n], or [num_tokens, n] of the head
  const float* scale = nullptr;  // [3], or [1] of the head
  const float* base = nullptr;   // as a row of mix
  float* pre = nullptr;          // [num_tokens, n], out
  float* post = nullptr;         // [num_tokens, n], out; null of the head
  float* comb = nullptr;         // [num_tokens, n, n], out; null of the head
};

// The coefficients, from the streams' product with the mixing weight.
void hyper_mix(Queue& queue, const HyperMix& args);

// u [num_tokens, dim] = the sum of the streams, each times its `pre`.
void hyper_collapse(Queue& queue, const HyperMix& args, float* u);

// streams[k] = post[k] output + sum over j of comb[j][k] streams[j], in place.
void hyper_expand(Queue& queue, const HyperMix& args, const float* output, float* streams);

}  // namespace plimsoll::gpu
