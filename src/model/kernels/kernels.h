// The arithmetic of the forward pass, written once and compiled for several instruction sets.
//
// Every function works on float32 and is deterministic per output element: the order of its
// operations depends on that element's own inputs only, never on how many rows are in the call.
// The variants with fused multiply-add give the same bits as one another; the generic one rounds
// products before adding them and differs in the last places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace plimsoll {

// Lanes of a panel; a matrix's outputs stand side by side in them.
inline constexpr int kPanelLanes = 32;
// Rows that are read as panels (keys, values) have their length rounded up to this and zero-filled.
inline constexpr int kRowAlignment = 16;

constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A matrix of [num_outputs, num_inputs] in panels: element (n, k) lies in panel n / 32 at k.
// One of the two pointers is set; strides are in elements. In a bfloat16 panel outputs n and n + 16
// share a 32-bit word, n in the low half.
struct Panels {
  const uint16_t* bf16 = nullptr;
  const float* f32 = nullptr;
  ptrdiff_t panel_stride = 0;
  ptrdiff_t k_stride = kPanelLanes;
  int num_outputs = 0;
  int num_inputs = 0;
};

// y[m][n] (+)= sum over k of x[m][k] w[n][k].
struct GemmArgs {
  const float* x = nullptr;
  ptrdiff_t x_row_stride = 0;
  ptrdiff_t x_k_stride = 1;
  const float* const* x_rows = nullptr;  // instead of x and its row stride: rows that lie anywhere
  int num_rows = 0;
  Panels w;
  float* y = nullptr;
  ptrdiff_t y_row_stride = 0;
  float* const* y_rows = nullptr;  // likewise
  bool accumulate = false;         // continue the sums that stand in y
};

// Softmax with a sink over the logits of runs of keys, lanes across (query, head) rows.
struct SoftmaxArgs {
  struct Run {
    int num_keys = 0;
    float offset = 0;  // of its first key's number
    // Lane l sees keys first[l] <= number < last[l]; the others get probability 0.
    const float* first = nullptr;
    const float* last = nullptr;
  };
  float* logits = nullptr;  // [sum of num_keys, kPanelLanes], replaced by exp(logit - maximum)
  std::span<const Run> runs;
  int num_lanes = 0;
  const float* sink = nullptr;  // [lanes]
  float* scale = nullptr;       // [lanes], out: 1 / denominator
};

// The coefficients of manifold-constrained hyper-connections for a batch of tokens.
struct HyperMixArgs {
  const float* mix = nullptr;  // [tokens, mix_stride]: hc_fn x, not yet scaled by the token's rms
  ptrdiff_t mix_stride = 0;
  const float* inverse_rms = nullptr;  // [tokens]
  const float* scale = nullptr;        // [3]
  const float* base = nullptr;         // [(2 + n) n]
  float eps = 0;
  int num_streams = 0;  // n
  int sinkhorn_iterations = 0;
  int num_tokens = 0;
  float* pre = nullptr;   // [tokens, n]
  float* post = nullptr;  // [tokens, n]; null for the head, which has only `pre`
  float* comb = nullptr;  // [tokens, n, n]
};

struct Kernels {
  const char* name;
  bool fused;  // products are added unrounded

  void (*gemm)(const GemmArgs& args);

  // out[i] = 1 / sqrt(mean of x[i]^2 + eps) for rows of `dim`.
  void (*inverse_rms)(
      const float* x, ptrdiff_t stride, int num_rows, int dim, float eps, float* out);
  // y[i] = x[i] * scale[i] * weight; `weight` may be null (all ones), y may be x.
  void (*scale_rows)(const float* x,
                     ptrdiff_t x_stride,
                     int num_rows,
                     int dim,
                     const float* scale,
                     const float* weight,
                     float* y,
                     ptrdiff_t y_stride);

  // Turns the pairs (x[2i], x[2i+1]) of each row by angle i, backwards where `inverse`; rotation
  // holds `num_pairs` cosines, then as many sines.
  void (*rotate)(
      float* x, ptrdiff_t stride, int num_rows, const float* rotation, int num_pairs, bool inverse);

  void (*hyper_mix)(const HyperMixArgs& args);
  // u = sum over j of pre[j] x[j]; x [tokens, n, dim], u [tokens, dim].
  void (*hyper_collapse)(
      const float* x, const float* pre, int num_tokens, int num_streams, int dim, float* u);
  // x[k] = post[k] o + sum over j of comb[j][k] x[j], in place.
  void (*hyper_expand)(const float* o,
                       const float* post,
                       const float* comb,
                       int num_tokens,
                       int num_streams,
                       int dim,
                       float* x);

  void (*softmax)(const SoftmaxArgs& args);

  // out[c] = sum over rows of softmax over rows(score[r][c]) * kv[r][c].
  void (*compress)(
      const float* const* kv, const float* const* score, int num_rows, int dim, float* out);

  // hidden = weight * silu(min(gate, limit)) * clamp(up, -limit, limit); gate and up alternate in
  // groups of 16, gate_up [rows, 2 * round_up(dim, 16)].
  void (*swiglu)(const float* gate_up,
                 ptrdiff_t gate_up_stride,
                 const float* weight,
                 int num_rows,
                 int dim,
                 float limit,
                 float* hidden,
                 ptrdiff_t hidden_stride);

  // s = sqrt(ln(1 + e^g)), in place.
  void (*sqrt_softplus)(float* values, int count);

  // scores[i] = sum over h of weights[h] * max(dots[h][i], 0), h ascending.
  void (*indexer_scores)(const float* dots,
                         ptrdiff_t dots_stride,
                         const float* weights,
                         int num_heads,
                         int count,
                         float* scores);
  // Indices of the `k` largest of `count` > k scores, ascending. Where equal scores straddle the
  // border their choice is not made: returns false.
  bool (*select_top)(const float* scores, int count, int k, uint32_t* scratch, int32_t* indices);

  // bfloat16 to float32.
  void (*widen)(const uint16_t* x, int count, float* y);
};

// The fastest variant this processor runs.
const Kernels& kernels();
// All that it runs, the fastest first.
std::span<const Kernels* const> available_kernels();

}  // namespace plimsoll
