#include "cuda/kernels/hyper_connection.h"

namespace plimsoll::gpu {
namespace {

// One thread does a token.
__global__ void collapse_plainly(
    const HyperConnection site, const float* streams, int tokens, float* plain, float* spread) {
  const int token = blockIdx.x * blockDim.x + threadIdx.x;
  if (token >= tokens) return;
  const int width = kStreams * site.hidden;
  const float* x = streams + int64_t{token} * width;
  double m[kMixRows] = {}, squares = 0;
  for (int k = 0; k < width; ++k) {
    squares += double{x[k]} * x[k];
    for (int r = 0; r < (site.pre_only ? kStreams : kMixRows); ++r) {
      m[r] += double{x[k]} * site.mix[int64_t{r} * width + k];
    }
  }
  for (double& v : m) v /= sqrt(squares / width + site.norm_eps);
  const auto sigmoid = [](double v) { return 1 / (1 + exp(-v)); };
  double pre[kStreams], c[kStreams][kStreams];
  for (int j = 0; j < kStreams; ++j)
    pre[j] = sigmoid(m[j] * site.scale[0] + site.base[j]) + site.eps;
  if (!site.pre_only) {
    for (int j = 0; j < kStreams; ++j) {
      spread[token * 20 + j] = 2 * sigmoid(m[4 + j] * site.scale[1] + site.base[4 + j]);
      double sum = 0;
      for (int k = 0; k < kStreams; ++k) {
        const int at = 8 + 4 * j + k;
        sum += c[j][k] = exp(m[at] * site.scale[2] + site.base[at]);
      }
      for (double& v : c[j]) v = v / sum + site.eps;
    }
    for (int i = 0; i < site.sinkhorn_iterations; ++i) {
      for (int j = 0; j < kStreams && i > 0; ++j) {
        const double sum = c[j][0] + c[j][1] + c[j][2] + c[j][3] + site.eps;
        for (double& v : c[j]) v /= sum;
      }
      for (int k = 0; k < kStreams; ++k) {
        const double sum = c[0][k] + c[1][k] + c[2][k] + c[3][k] + site.eps;
        for (int j = 0; j < kStreams; ++j) c[j][k] /= sum;
      }
    }
    for (int i = 0; i < 16; ++i) spread[token * 20 + 4 + i] = c[i / 4][i % 4];
  }
  const auto u = [&](int k) {
    double sum = 0;
    for (int j = 0; j < kStreams; ++j) sum += pre[j] * x[j * site.hidden + k];
    return sum;
  };
  double squares_of_u = 0;
  for (int k = 0; k < site.hidden; ++k) squares_of_u += u(k) * u(k);
  const double share = 1 / sqrt(squares_of_u / site.hidden + site.norm_eps);
  for (int k = 0; k < site.hidden; ++k) {
    plain[int64_t{token} * site.hidden + k] = u(k) * share * site.norm[k];
  }
}

}  // namespace

cudaError_t collapse_reference(const HyperConnection& site,
                               const float* streams,
                               int tokens,
                               float* plain,
                               float* spread,
                               cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  collapse_plainly<<<(tokens + 31) / 32, 32, 0, stream>>>(site, streams, tokens, plain, spread);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
