// Manifold-constrained hyper-connections for the kernel variants.
#pragma once

#include "model/kernels/elementwise-inl.h"

namespace plimsoll::PLIMSOLL_KERNELS {
namespace {

inline constexpr int kMaxStreams = 16;

// Makes the matrices' rows, then their columns, sum to (nearly) one, over and over; a lane a token.
// The first pass's row step is the softmax.
inline __attribute__((always_inline)) void sinkhorn(F16 (&c)[kMaxStreams][kMaxStreams],
                                                    int n,
                                                    int iterations,
                                                    float eps_value) {
  const F16 eps = broadcast(eps_value);
  const F16 one = broadcast(1.0f);
  for (int j = 0; j < n; ++j) {
    F16 maximum = c[j][0];
    for (int k = 1; k < n; ++k) maximum = max(maximum, c[j][k]);
    F16 sum = zero();
    for (int k = 0; k < n; ++k) {
      c[j][k] = exp(c[j][k] - maximum);
      sum = sum + c[j][k];
    }
    for (int k = 0; k < n; ++k) c[j][k] = c[j][k] / sum + eps;
  }
  for (int pass = 0; pass < iterations; ++pass) {
    for (int j = 0; j < n && pass > 0; ++j) {
      F16 sum = eps;
      for (int k = 0; k < n; ++k) sum = sum + c[j][k];
      const F16 factor = one / sum;
      for (int k = 0; k < n; ++k) c[j][k] = c[j][k] * factor;
    }
    for (int k = 0; k < n; ++k) {
      F16 sum = eps;
      for (int j = 0; j < n; ++j) sum = sum + c[j][k];
      const F16 factor = one / sum;
      for (int j = 0; j < n; ++j) c[j][k] = c[j][k] * factor;
    }
  }
}

// Up to sixteen tokens from `first` on, n streams each.
inline __attribute__((always_inline)) void hyper_mix_lanes(const HyperMixArgs& args,
                                                           int first,
                                                           int n) {
  const int num_tokens = args.num_tokens - first < kLanes ? args.num_tokens - first : kLanes;
  const int num_rows = args.comb != nullptr ? (2 + n) * n : n;
  float rows[(2 + kMaxStreams) * kMaxStreams][kLanes];
  for (int i = 0; i < num_rows; ++i) {
    for (int t = 0; t < kLanes; ++t) {
      rows[i][t] = t < num_tokens
                       ? args.mix[(first + t) * args.mix_stride + i] * args.inverse_rms[first + t]
                       : 0.0f;
    }
  }
  const auto scaled = [&](int i, int which) {
    return fma(load(rows[i]), broadcast(args.scale[which]), broadcast(args.base[i]));
  };
  const auto write = [&](F16 value, float* out, int stride) {
    float lanes[kLanes];
    store(lanes, value);
    for (int t = 0; t < num_tokens; ++t) out[(first + t) * stride] = lanes[t];
  };
  for (int j = 0; j < n; ++j) {
    write(sigmoid(scaled(j, 0)) + broadcast(args.eps), args.pre + j, n);
  }
  if (args.comb == nullptr) return;
  for (int j = 0; j < n; ++j) {
    write(broadcast(2.0f) * sigmoid(scaled(n + j, 1)), args.post + j, n);
  }
  F16 c[kMaxStreams][kMaxStreams];
  for (int j = 0; j < n; ++j) {
    for (int k = 0; k < n; ++k) c[j][k] = scaled(2 * n + j * n + k, 2);
  }
  sinkhorn(c, n, args.sinkhorn_iterations, args.eps);
  for (int j = 0; j < n; ++j) {
    for (int k = 0; k < n; ++k) write(c[j][k], args.comb + j * n + k, n * n);
  }
}

inline void hyper_mix(const HyperMixArgs& args) {
  for (int first = 0; first < args.num_tokens; first += kLanes) {
    if (args.num_streams == 4) {
      hyper_mix_lanes(args, first, 4);  // the constant keeps the matrices in registers
    } else {
      hyper_mix_lanes(args, first, args.num_streams);
    }
  }
}

inline void hyper_collapse(
    const float* x, const float* pre, int num_tokens, int num_streams, int dim, float* u) {
  for (int t = 0; t < num_tokens; ++t) {
    for (int d = 0; d < dim; d += kLanes) {
      F16 sum = zero();
      for (int j = 0; j < num_streams; ++j) {
        sum = fma(broadcast(pre[j]), load_partial(x + j * dim + d, dim - d), sum);
      }
      store_partial(u + d, sum, dim - d);
    }
    x += num_streams * dim;
    pre += num_streams;
    u += dim;
  }
}

inline __attribute__((always_inline)) void expand_token(
    const float* o, const float* post, const float* comb, int n, int dim, float* x) {
  for (int d = 0; d < dim; d += kLanes) {
    F16 streams[kMaxStreams];
    for (int j = 0; j < n; ++j) streams[j] = load_partial(x + j * dim + d, dim - d);
    const F16 added = load_partial(o + d, dim - d);
    for (int k = 0; k < n; ++k) {
      F16 sum = broadcast(post[k]) * added;
      for (int j = 0; j < n; ++j) sum = fma(broadcast(comb[j * n + k]), streams[j], sum);
      store_partial(x + k * dim + d, sum, dim - d);
    }
  }
}

inline void hyper_expand(const float* o,
                         const float* post,
                         const float* comb,
                         int num_tokens,
                         int num_streams,
                         int dim,
                         float* x) {
  const int n = num_streams;
  for (int t = 0; t < num_tokens; ++t) {
    if (n == 4) {
      expand_token(o, post, comb, 4, dim, x);
    } else {
      expand_token(o, post, comb, n, dim, x);
    }
    o += dim;
    post += n;
    comb += n * n;
    x += n * dim;
  }
}

}  // namespace
}  // namespace plimsoll::PLIMSOLL_KERNELS
