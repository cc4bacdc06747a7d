// Exponentials, norms and activations for the kernel variants.
#pragma once

#include "model/kernels/kernels.h"
#include "model/kernels/simd.h"

namespace plimsoll::PLIMSOLL_KERNELS {
namespace {

// e^x to about one unit in the last place; 0 below the smallest normal number, and no larger
// than 2^127 above.
inline F16 exp(F16 x) {
  const F16 tiny = broadcast(-87.33654f);
  const F16 clamped = min(broadcast(88.02969f), max(tiny, x));  // keeps not-a-number
  const F16 magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F16 shifted = fma(clamped, broadcast(1.44269504f), magic);
  const F16 n = shifted - magic;
  // x - n ln 2 with ln 2 in two parts, the first short enough for an exact product.
  const F16 r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), clamped));
  F16 p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  const F16 power = as_floats((as_ints(shifted) - 0x4b400000 + 127) << 23);
  return select(less(x, tiny), zero(), p * power);
}

// ln(1 + e) for e >= 0.
inline F16 log1p(F16 e) {
  const F16 one = broadcast(1.0f);
  const F16 u = one + e;
  // u = 2^n m with m in [sqrt(1/2), sqrt(2)).
  const I16 bits = as_ints(u) - 0x3f3504f3;
  const F16 n = to_floats(bits >> 23);
  const F16 m = as_floats((bits & 0x007fffff) + 0x3f3504f3);
  const F16 f = m - one;
  F16 p = broadcast(7.0376836292e-2f);
  p = fma(p, f, broadcast(-1.1514610310e-1f));
  p = fma(p, f, broadcast(1.1676998740e-1f));
  p = fma(p, f, broadcast(-1.2420140846e-1f));
  p = fma(p, f, broadcast(1.4249322787e-1f));
  p = fma(p, f, broadcast(-1.6668057665e-1f));
  p = fma(p, f, broadcast(2.0000714765e-1f));
  p = fma(p, f, broadcast(-2.4999993993e-1f));
  p = fma(p, f, broadcast(3.3333331174e-1f));
  const F16 square = f * f;
  // What adding 1 rounded away, over u, is the logarithm's missing part.
  const F16 lost = (e - (u - one)) / u;
  F16 low = fma(p * f, square, n * broadcast(-2.12194440e-4f));
  low = fma(square, broadcast(-0.5f), low) + lost;
  return fma(n, broadcast(0.693359375f), f + low);
}

inline F16 sigmoid(F16 x) {
  const F16 one = broadcast(1.0f);
  return one / (one + exp(zero() - x));
}

inline void inverse_rms(
    const float* x, ptrdiff_t stride, int num_rows, int dim, float eps, float* out) {
  for (int i = 0; i < num_rows; ++i) {
    const float* row = x + i * stride;
    F16 sum = zero();
    for (int d = 0; d < dim; d += kLanes) {
      const F16 v = load_partial(row + d, dim - d);
      sum = fma(v, v, sum);
    }
    out[i] = 1.0f / __builtin_sqrtf(sum_lanes(sum) / static_cast<float>(dim) + eps);
  }
}

inline void scale_rows(const float* x,
                       ptrdiff_t x_stride,
                       int num_rows,
                       int dim,
                       const float* scale,
                       const float* weight,
                       float* y,
                       ptrdiff_t y_stride) {
  for (int i = 0; i < num_rows; ++i) {
    const float* from = x + i * x_stride;
    float* to = y + i * y_stride;
    const float factor = scale[i];
    if (weight == nullptr) {
      for (int d = 0; d < dim; ++d) to[d] = from[d] * factor;
    } else {
      for (int d = 0; d < dim; ++d) to[d] = from[d] * factor * weight[d];
    }
  }
}

inline void rotate(
    float* x, ptrdiff_t stride, int num_rows, const float* rotation, int num_pairs, bool inverse) {
  const float sign = inverse ? -1.0f : 1.0f;
  for (int r = 0; r < num_rows; ++r) {
    float* row = x + r * stride;
    for (int i = 0; i < num_pairs; ++i) {
      const float c = rotation[i];
      const float s = rotation[num_pairs + i] * sign;
      const float even = row[2 * i];
      const float odd = row[2 * i + 1];
      row[2 * i] = even * c - odd * s;
      row[2 * i + 1] = odd * c + even * s;
    }
  }
}

inline void swiglu(const float* gate_up,
                   ptrdiff_t gate_up_stride,
                   const float* weight,
                   int num_rows,
                   int dim,
                   float limit,
                   float* hidden,
                   ptrdiff_t hidden_stride) {
  const F16 top = broadcast(limit);
  const F16 bottom = broadcast(-limit);
  for (int i = 0; i < num_rows; ++i) {
    const float* row = gate_up + i * gate_up_stride;
    const F16 factor = broadcast(weight[i]);
    for (int d = 0; d < dim; d += kLanes) {
      const F16 gate = min(load(row + 2 * d), top);
      const F16 up = min(max(load(row + 2 * d + kLanes), bottom), top);
      store_partial(hidden + i * hidden_stride + d, factor * (gate * sigmoid(gate)) * up, dim - d);
    }
  }
}

inline void sqrt_softplus(float* values, int count) {
  for (int i = 0; i < count; i += kLanes) {
    const F16 g = load_partial(values + i, count - i);
    // Past 20, ln(1 + e^g) is g to the last bit.
    const F16 softplus = select(less(broadcast(20.0f), g), g, log1p(exp(g)));
    store_partial(values + i, sqrt(softplus), count - i);
  }
}

inline void widen(const uint16_t* x, int count, float* y) {
  for (int i = 0; i < count; ++i) {
    y[i] = __builtin_bit_cast(float, static_cast<uint32_t>(x[i]) << 16);
  }
}

}  // namespace
}  // namespace plimsoll::PLIMSOLL_KERNELS
