// Sixteen float32 lanes, for the kernel variants. Included only by kernels_*.cc, each of which
// names its own namespace, so that code compiled for one instruction set never reaches another's
// callers.
//
// Every operation is one IEEE operation per lane, the same in every variant; fma alone rounds twice
// where the processor has no fused multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace plimsoll::PLIMSOLL_KERNELS {
namespace {

inline constexpr int kLanes = 16;
#if defined(__AVX512F__)
inline constexpr int kRegisterLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kRegisterLanes = 8;
#else
inline constexpr int kRegisterLanes = 4;
#endif
#if defined(__FMA__)
inline constexpr bool kFused = true;
#else
inline constexpr bool kFused = false;
#endif
inline constexpr int kRegisters = kLanes / kRegisterLanes;

typedef float FloatRegister __attribute__((vector_size(4 * kRegisterLanes)));
typedef int32_t IntRegister __attribute__((vector_size(4 * kRegisterLanes)));

struct F16 {
  FloatRegister r[kRegisters];
};
struct I16 {
  IntRegister r[kRegisters];
};

template <typename Vector, typename Operation>
inline __attribute__((always_inline)) Vector each_register(Operation operation) {
  Vector out;
  for (int i = 0; i < kRegisters; ++i) out.r[i] = operation(i);
  return out;
}

inline F16 operator+(F16 a, F16 b) {
  return each_register<F16>([&](int i) { return a.r[i] + b.r[i]; });
}
inline F16 operator-(F16 a, F16 b) {
  return each_register<F16>([&](int i) { return a.r[i] - b.r[i]; });
}
inline F16 operator*(F16 a, F16 b) {
  return each_register<F16>([&](int i) { return a.r[i] * b.r[i]; });
}
inline F16 operator/(F16 a, F16 b) {
  return each_register<F16>([&](int i) { return a.r[i] / b.r[i]; });
}

inline F16 broadcast(float value) {
  return each_register<F16>([&](int) { return value - FloatRegister{}; });
}
inline F16 zero() {
  return F16{};
}

inline F16 load(const float* p) {
  F16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F16 v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// The first n lanes; the others are zero, and memory past them is not touched.
inline F16 load_partial(const float* p, int n) {
  if (n >= kLanes) return load(p);
  float lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_partial(float* p, F16 v, int n) {
  if (n >= kLanes) return store(p, v);
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

inline I16 load_words(const void* p) {
  I16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline I16 as_ints(F16 v) {
  return each_register<I16>([&](int i) { return (IntRegister)v.r[i]; });
}
inline F16 as_floats(I16 v) {
  return each_register<F16>([&](int i) { return (FloatRegister)v.r[i]; });
}
inline F16 to_floats(I16 v) {
  return each_register<F16>([&](int i) { return __builtin_convertvector(v.r[i], FloatRegister); });
}
inline I16 operator+(I16 a, int32_t b) {
  return each_register<I16>([&](int i) { return a.r[i] + b; });
}
inline I16 operator-(I16 a, int32_t b) {
  return each_register<I16>([&](int i) { return a.r[i] - b; });
}
inline I16 operator&(I16 a, int32_t b) {
  return each_register<I16>([&](int i) { return a.r[i] & b; });
}
inline I16 operator<<(I16 a, int bits) {
  return each_register<I16>([&](int i) { return a.r[i] << bits; });
}
inline I16 operator>>(I16 a, int bits) {
  return each_register<I16>([&](int i) { return a.r[i] >> bits; });
}

// A pair of bfloat16 in each 32-bit word, widened.
inline F16 widen_low(I16 words) {
  return as_floats(words << 16);
}
inline F16 widen_high(I16 words) {
  return as_floats(words & static_cast<int32_t>(0xffff0000u));
}

#if defined(__AVX512F__)

using Mask = __mmask16;
// The masked forms, because g++ 12 warns of an uninitialised value inside the others.
inline constexpr Mask kAllLanes = 0xffff;
inline Mask less(F16 a, F16 b) {
  return _mm512_cmp_ps_mask(a.r[0], b.r[0], _CMP_LT_OQ);
}
inline Mask both(Mask a, Mask b) {
  return a & b;
}
inline F16 select(Mask mask, F16 a, F16 b) {
  return F16{{_mm512_mask_blend_ps(mask, b.r[0], a.r[0])}};
}
inline F16 fma(F16 a, F16 b, F16 c) {
  return F16{{_mm512_fmadd_ps(a.r[0], b.r[0], c.r[0])}};
}
inline F16 max(F16 a, F16 b) {
  return F16{{_mm512_maskz_max_ps(kAllLanes, a.r[0], b.r[0])}};
}
inline F16 min(F16 a, F16 b) {
  return F16{{_mm512_maskz_min_ps(kAllLanes, a.r[0], b.r[0])}};
}
inline F16 sqrt(F16 a) {
  return F16{{_mm512_maskz_sqrt_ps(kAllLanes, a.r[0])}};
}

#else

using Mask = I16;
inline Mask less(F16 a, F16 b) {
  return each_register<I16>([&](int i) { return a.r[i] < b.r[i]; });
}
inline Mask both(Mask a, Mask b) {
  return each_register<I16>([&](int i) { return a.r[i] & b.r[i]; });
}
inline F16 select(Mask mask, F16 a, F16 b) {
  return each_register<F16>([&](int i) { return mask.r[i] ? a.r[i] : b.r[i]; });
}
inline F16 fma(F16 a, F16 b, F16 c) {
#if defined(__FMA__)
  return each_register<F16>([&](int i) { return _mm256_fmadd_ps(a.r[i], b.r[i], c.r[i]); });
#else
  return a * b + c;
#endif
}
// As the processor's instructions: the second operand where either is not a number.
inline F16 max(F16 a, F16 b) {
  return select(less(b, a), a, b);
}
inline F16 min(F16 a, F16 b) {
  return select(less(a, b), a, b);
}
inline F16 sqrt(F16 a) {
  return each_register<F16>([&](int i) {
    FloatRegister root;
    for (int lane = 0; lane < kRegisterLanes; ++lane) root[lane] = __builtin_sqrtf(a.r[i][lane]);
    return root;
  });
}

#endif

// The lanes' sum, always added in the same tree.
inline float sum_lanes(F16 v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

}  // namespace
}  // namespace plimsoll::PLIMSOLL_KERNELS
