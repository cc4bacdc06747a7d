// Manifold-constrained hyper-connections (mHC) of DeepSeek-V4: the residual is four streams X[j], a
// layer reads a mixture of them and its result is spread over them again.
//
//   m = (mix · x) · rsqrt(mean(x²) + norm_eps), x all streams of a token in a row
//   pre[j] = sigmoid(m[j] · scale[0] + base[j]) + eps;  post[j] = 2 sigmoid(m[4 + j] · scale[1] +
//   ...) comb = Sinkhorn of m[8 + 4j + k] · scale[2] + base[...], rows j, columns k collapse:  u =
//   sum over j of pre[j] X[j];  RMSNorm of u expand:    X'[k] = post[k] · o + sum over j of
//   comb[j][k] X[j]
//
// All in float32. The sum over a token's 4 · hidden numbers is cut into pieces of 512 whatever the
// batch, each summed in one order, and the pieces are added in order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/operand.h"

namespace plimsoll::gpu {

constexpr int kStreams = 4;
constexpr int kMixRows = kStreams * (kStreams + 2);  // pre, post, comb

struct HyperConnection {
  int hidden = 0;                // a multiple of 128, at most 8,192
  const float* mix = nullptr;    // [24, 4 · hidden]; 16-byte aligned
  const float* base = nullptr;   // [24]
  const float* scale = nullptr;  // [3]
  int sinkhorn_iterations = 20;
  float eps = 1e-6f;
  float norm_eps = 1e-6f;
  const float* norm = nullptr;  // [hidden], the layer's RMSNorm
  // The model's end has 4 rows of mix and base and 1 scale: pre alone.
  bool pre_only = false;
};

// Each may be left out by a null pointer.
struct Collapsed {
  float* plain = nullptr;   // [tokens, hidden]: the normed u
  Operand operand;          // the same made ready; tokens rows, hidden columns
  Operand second;           // in another form: the gate's three bf16
  float* spread = nullptr;  // [tokens, 20]: post, then comb by rows; what expand takes
};

// Of the sums between the two kernels; 16-byte aligned.
size_t collapse_workspace_bytes(int tokens, int hidden);

// streams: [tokens, 4, hidden], 16-byte aligned. Two kernels. cudaErrorInvalidValue where sizes do
// not fit. Can be captured.
cudaError_t collapse(const HyperConnection& site,
                     const float* streams,
                     int tokens,
                     const Collapsed& out,
                     void* workspace,
                     cudaStream_t stream);

// o: [tokens, hidden] float32. The streams are replaced by X'.
cudaError_t expand(const float* o,
                   const float* spread,
                   int tokens,
                   int hidden,
                   float* streams,
                   cudaStream_t stream);

// collapse to `plain` and `spread` by plain sums in float64: what collapse() is checked against.
cudaError_t collapse_reference(const HyperConnection& site,
                               const float* streams,
                               int tokens,
                               float* plain,
                               float* spread,
                               cudaStream_t stream);

}  // namespace plimsoll::gpu
