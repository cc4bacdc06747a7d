#include "cuda/model/hyper_connection.h"

#include "cuda/device/for_each.h"

namespace plimsoll::gpu {
namespace {

PLIMSOLL_HD float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

using Matrix = float[kMostStreams][kMostStreams];

PLIMSOLL_HD void scale_row(Matrix& c, int n, int j, float eps) {
  float sum = eps;
  for (int k = 0; k < n; ++k) sum += c[j][k];
  for (int k = 0; k < n; ++k) c[j][k] *= 1.0f / sum;
}

PLIMSOLL_HD void scale_column(Matrix& c, int n, int k, float eps) {
  float sum = eps;
  for (int j = 0; j < n; ++j) sum += c[j][k];
  for (int j = 0; j < n; ++j) c[j][k] *= 1.0f / sum;
}

// Rows, then columns, are made to sum to one, over and over; the first row step is a softmax.
PLIMSOLL_HD void sinkhorn(Matrix& c, int n, int iterations, float eps) {
  for (int j = 0; j < n; ++j) {
    float maximum = c[j][0];
    for (int k = 1; k < n; ++k) maximum = fmaxf(maximum, c[j][k]);
    float sum = 0;
    for (int k = 0; k < n; ++k) sum += c[j][k] = expf(c[j][k] - maximum);
    for (int k = 0; k < n; ++k) c[j][k] = c[j][k] / sum + eps;
  }
  for (int pass = 0; pass < iterations; ++pass) {
    for (int j = 0; j < n && pass > 0; ++j) scale_row(c, n, j, eps);
    for (int k = 0; k < n; ++k) scale_column(c, n, k, eps);
  }
}

struct MixToken {
  HyperMix args;

  PLIMSOLL_HD void operator()(int64_t t) const {
    const int n = args.num_streams;
    const int width = n * args.dim;
    const int num_mixes = args.comb == nullptr ? n : (2 + n) * n;
    const float* x = args.streams + t * width;
    float sum = 0;
    for (int d = 0; d < width; ++d) sum = multiply_add(x[d], x[d], sum);
    const float inverse_rms = 1.0f / sqrtf(sum / static_cast<float>(width) + args.norm_eps);
    const float* mix = args.mix + t * num_mixes;
    const auto scaled = [&](int i, int which) {
      return multiply_add(mix[i] * inverse_rms, args.scale[which], args.base[i]);
    };
    for (int j = 0; j < n; ++j) args.pre[t * n + j] = sigmoid(scaled(j, 0)) + args.eps;
    if (args.comb == nullptr) return;
    for (int j = 0; j < n; ++j) args.post[t * n + j] = 2.0f * sigmoid(scaled(n + j, 1));
    Matrix c;
    for (int j = 0; j < n; ++j) {
      for (int k = 0; k < n; ++k) c[j][k] = scaled((2 + j) * n + k, 2);
    }
    sinkhorn(c, n, args.sinkhorn_iterations, args.eps);
    for (int j = 0; j < n; ++j) {
      for (int k = 0; k < n; ++k) args.comb[(t * n + j) * n + k] = c[j][k];
    }
  }
};

struct Collapse {
  HyperMix args;
  float* u;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int64_t t = i / args.dim;
    const float* x = args.streams + t * args.num_streams * args.dim + i % args.dim;
    float sum = 0;
    for (int j = 0; j < args.num_streams; ++j) {
      sum = multiply_add(args.pre[t * args.num_streams + j], x[int64_t{j} * args.dim], sum);
    }
    u[i] = sum;
  }
};

struct Expand {
  HyperMix args;
  const float* output;
  float* streams;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int n = args.num_streams;
    const int64_t t = i / args.dim;
    float* x = streams + t * n * args.dim + i % args.dim;
    float before[kMostStreams];
    for (int j = 0; j < n; ++j) before[j] = x[int64_t{j} * args.dim];
    for (int k = 0; k < n; ++k) {
      float sum = args.post[t * n + k] * output[i];
      for (int j = 0; j < n; ++j) {
        sum = multiply_add(args.comb[(t * n + j) * n + k], before[j], sum);
      }
      x[int64_t{k} * args.dim] = sum;
    }
  }
};

}  // namespace

void hyper_mix(Queue& queue, const HyperMix& args) {
  for_each(queue, args.num_tokens, MixToken{args});
}

void hyper_collapse(Queue& queue, const HyperMix& args, float* u) {
  for_each(queue, int64_t{args.num_tokens} * args.dim, Collapse{args, u});
}

void hyper_expand(Queue& queue, const HyperMix& args, const float* output, float* streams) {
  for_each(queue, int64_t{args.num_tokens} * args.dim, Expand{args, output, streams});
}

}  // namespace plimsoll::gpu
