// Every kernel variant this processor runs, against plain loops.
#include "model/kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "model/kernels/packed_matrix.h"

namespace plimsoll {
namespace {

class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}

  float next(float spread) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    const int value = static_cast<int>(state_ >> 40) - (1 << 23);
    return static_cast<float>(value) * spread / static_cast<float>(1 << 23);
  }
  std::vector<float> many(int count, float spread) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = next(spread);
    return values;
  }

 private:
  uint64_t state_;
};

// Drops what bfloat16 does not hold.
void truncate_to_bf16(std::vector<float>& values) {
  for (float& value : values) {
    value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xffff0000u);
  }
}

class KernelVariant : public ::testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& kernels() const { return *GetParam(); }
  float multiply_add(float a, float b, float c) const {
    return kernels().fused ? std::fma(a, b, c) : a * b + c;
  }
};

INSTANTIATE_TEST_SUITE_P(All,
                         KernelVariant,
                         ::testing::ValuesIn(available_kernels().begin(),
                                             available_kernels().end()),
                         [](const auto& info) { return std::string(info.param->name); });

struct GemmCase {
  int rows, outputs, inputs;
  bool bf16;
};

// Bit for bit: one chain of multiply-adds over k, ascending.
TEST_P(KernelVariant, GemmIsOneChainPerElement) {
  for (const GemmCase& c : std::vector<GemmCase>{{1, 1, 1, false},
                                                 {1, 16, 5, true},
                                                 {5, 17, 9, false},
                                                 {12, 32, 64, true},
                                                 {13, 33, 31, true},
                                                 {25, 48, 7, false},
                                                 {38, 100, 65, true},
                                                 {0, 32, 8, false}}) {
    Numbers numbers(7);
    std::vector<float> w = numbers.many(c.outputs * c.inputs, 2);
    if (c.bf16) truncate_to_bf16(w);
    const PackedMatrix packed = pack_matrix(w, c.outputs, c.inputs);
    EXPECT_EQ(packed.bf16.empty(), !c.bf16);
    const std::vector<float> x = numbers.many(c.rows * c.inputs, 3);
    std::vector<float> y(static_cast<size_t>(c.rows * (c.outputs + 3)), 0.5f);
    std::vector<float> scattered = y;
    std::vector<const float*> x_rows;
    std::vector<float*> y_rows;
    for (int m = c.rows; m-- > 0;) {  // the rows in reverse
      x_rows.push_back(x.data() + m * c.inputs);
      y_rows.push_back(scattered.data() + m * (c.outputs + 3));
    }
    GemmArgs args;
    args.x = x.data();
    args.x_row_stride = c.inputs;
    args.num_rows = c.rows;
    args.w = panels(packed);
    args.y = y.data();
    args.y_row_stride = c.outputs + 3;
    args.accumulate = true;
    kernels().gemm(args);
    args.x_rows = x_rows.data();
    args.y_rows = y_rows.data();
    kernels().gemm(args);
    EXPECT_TRUE(y == scattered);
    for (int m = 0; m < c.rows; ++m) {
      const float* row = y.data() + m * (c.outputs + 3);
      for (int n = 0; n < c.outputs; ++n) {
        float sum = 0.5f;
        for (int k = 0; k < c.inputs; ++k) {
          sum = multiply_add(x[static_cast<size_t>(m * c.inputs + k)],
                             w[static_cast<size_t>(n * c.inputs + k)], sum);
        }
        ASSERT_EQ(row[n], sum) << m << " " << n << " of " << c.rows << "x" << c.outputs;
      }
      for (int n = 0; n < 3; ++n) EXPECT_EQ(row[c.outputs + n], 0.5f);  // untouched
    }
  }
}

TEST_P(KernelVariant, GemmReadsColumnsAndRowsAsPanels) {
  constexpr int kRows = 9, kKeys = 21, kDim = 40, kStride = 48;
  Numbers numbers(11);
  const std::vector<float> p = numbers.many(kKeys * kPanelLanes, 1);
  const std::vector<float> v = numbers.many(kKeys * kStride, 1);
  std::vector<float> y(kRows * kDim);
  GemmArgs args;
  args.x = p.data();
  args.x_row_stride = 1;
  args.x_k_stride = kPanelLanes;
  args.num_rows = kRows;
  args.w = {.f32 = v.data(),
            .panel_stride = kPanelLanes,
            .k_stride = kStride,
            .num_outputs = kDim,
            .num_inputs = kKeys};
  args.y = y.data();
  args.y_row_stride = kDim;
  kernels().gemm(args);
  for (int r = 0; r < kRows; ++r) {
    for (int d = 0; d < kDim; ++d) {
      float sum = 0;
      for (int j = 0; j < kKeys; ++j) {
        sum = multiply_add(p[static_cast<size_t>(j * kPanelLanes + r)],
                           v[static_cast<size_t>(j * kStride + d)], sum);
      }
      ASSERT_EQ(y[static_cast<size_t>(r * kDim + d)], sum);
    }
  }
}

// Keys that a lane does not see change no bit, wherever they stand.
TEST_P(KernelVariant, SoftmaxIgnoresUnseenKeys) {
  constexpr int kKeys = 37;
  Numbers numbers(3);
  const std::vector<float> logits = numbers.many(kKeys * kPanelLanes, 9);
  const std::vector<float> sink = numbers.many(kPanelLanes, 2);
  const auto run = [&](int first_key, int num_keys, float first, float last) {
    std::vector<float> work(logits.begin() + first_key * kPanelLanes,
                            logits.begin() + (first_key + num_keys) * kPanelLanes);
    const std::vector<float> firsts(kPanelLanes, first), lasts(kPanelLanes, last);
    std::vector<float> scale(kPanelLanes);
    const std::vector<SoftmaxArgs::Run> runs = {
        {num_keys / 3, static_cast<float>(first_key), firsts.data(), lasts.data()},
        {0, 0, firsts.data(), lasts.data()},
        {num_keys - num_keys / 3, static_cast<float>(first_key + num_keys / 3), firsts.data(),
         lasts.data()}};
    kernels().softmax({work.data(), runs, kPanelLanes, sink.data(), scale.data()});
    return std::pair{work, scale};
  };
  const auto [some, some_scale] = run(5, 20, 5, 25);
  const auto [all, all_scale] = run(0, kKeys, 5, 25);
  EXPECT_TRUE(some_scale == all_scale);
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + 5 * kPanelLanes));
  for (int l = 0; l < kPanelLanes; ++l) {
    double sum = std::exp(static_cast<double>(sink[static_cast<size_t>(l)]));
    for (int j = 5; j < 25; ++j) {
      sum += std::exp(static_cast<double>(logits[static_cast<size_t>(j * kPanelLanes + l)]));
    }
    for (int j = 0; j < kKeys; ++j) {
      const size_t at = static_cast<size_t>(j * kPanelLanes + l);
      const double expected =
          j < 5 || j >= 25 ? 0 : std::exp(static_cast<double>(logits[at])) / sum;
      EXPECT_NEAR(all[at] * all_scale[static_cast<size_t>(l)], expected, 1e-6);
    }
  }
}

TEST_P(KernelVariant, SqrtSoftplusIsAccurateEverywhere) {
  std::vector<float> g;
  for (int i = -8500; i <= 12000; ++i) g.push_back(static_cast<float>(i) * 0.01f);
  std::vector<float> s = g;
  kernels().sqrt_softplus(s.data(), static_cast<int>(s.size()));
  for (size_t i = 0; i < g.size(); ++i) {
    const double expected = std::sqrt(std::log1p(std::exp(static_cast<double>(g[i]))));
    ASSERT_NEAR(s[i] / expected, 1, 4e-7) << g[i];
  }
}

TEST_P(KernelVariant, SwigluClampsAndIsAccurate) {
  constexpr int kRows = 3, kDim = 21, kStride = 64;
  Numbers numbers(5);
  const std::vector<float> gate_up = numbers.many(kRows * kStride, 12);
  const std::vector<float> weight = {1.0f, 0.3f, -2.0f};
  std::vector<float> hidden(kRows * kDim);
  kernels().swiglu(gate_up.data(), kStride, weight.data(), kRows, kDim, 7.0f, hidden.data(), kDim);
  for (int r = 0; r < kRows; ++r) {
    for (int d = 0; d < kDim; ++d) {
      const float* pair = gate_up.data() + r * kStride + d / 16 * 32 + d % 16;
      const double gate = std::min<double>(pair[0], 7), up = std::clamp<double>(pair[16], -7, 7);
      const double expected = weight[static_cast<size_t>(r)] * gate / (1 + std::exp(-gate)) * up;
      EXPECT_NEAR(hidden[static_cast<size_t>(r * kDim + d)], expected,
                  1e-6 * std::abs(expected) + 1e-9);
    }
  }
}

// A token's coefficients do not hang on where in the batch it stands; its matrix is doubly
// stochastic.
TEST_P(KernelVariant, HyperMixOfATokenIsItsOwn) {
  for (int n : {1, 2, 4, 5, 16}) {
    constexpr int kTokens = 21;
    const int rows = (2 + n) * n;
    Numbers numbers(13);
    const std::vector<float> mix = numbers.many(kTokens * rows, 2), base = numbers.many(rows, 1);
    const std::vector<float> scale = {0.7f, 0.9f, 1.1f}, inverse_rms = numbers.many(kTokens, 1);
    const auto run = [&](int first, int count) {
      std::vector<float> out(static_cast<size_t>(count * (2 * n + n * n)));
      kernels().hyper_mix({.mix = mix.data() + first * rows,
                           .mix_stride = rows,
                           .inverse_rms = inverse_rms.data() + first,
                           .scale = scale.data(),
                           .base = base.data(),
                           .eps = 1e-6f,
                           .num_streams = n,
                           .sinkhorn_iterations = 20,
                           .num_tokens = count,
                           .pre = out.data(),
                           .post = out.data() + count * n,
                           .comb = out.data() + 2 * count * n});
      return out;
    };
    const std::vector<float> all = run(0, kTokens);
    for (int t = 0; t < kTokens; ++t) {
      const std::vector<float> one = run(t, 1);
      EXPECT_TRUE(std::equal(one.begin(), one.begin() + n, all.begin() + t * n));
      EXPECT_TRUE(
          std::equal(one.begin() + n, one.begin() + 2 * n, all.begin() + (kTokens + t) * n));
      const auto comb = all.begin() + 2 * kTokens * n + t * n * n;
      EXPECT_TRUE(std::equal(one.begin() + 2 * n, one.end(), comb));
      for (int k = 0; k < n; ++k) {
        float column = 0;
        for (int j = 0; j < n; ++j) column += comb[j * n + k];
        EXPECT_NEAR(column, 1, 1e-4);
      }
    }
  }
}

TEST_P(KernelVariant, SelectTopFindsTheBestOrSaysThatEqualsStraddle) {
  Numbers numbers(17);
  for (int round = 0; round < 300; ++round) {
    const int count = 2 + round;
    const int k = 1 + round * 7 % (count - 1);
    std::vector<float> scores = numbers.many(count, 4);
    if (round % 2 == 1) {
      for (float& score : scores) score = std::round(score) + 0.0f;  // many equals
    }
    std::vector<float> sorted = scores;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const float worst = sorted[static_cast<size_t>(k - 1)];
    std::vector<uint32_t> scratch(scores.size());
    std::vector<int32_t> indices(static_cast<size_t>(k));
    const bool clear =
        kernels().select_top(scores.data(), count, k, scratch.data(), indices.data());
    ASSERT_EQ(clear, worst > sorted[static_cast<size_t>(k)]);
    if (!clear) continue;
    EXPECT_TRUE(std::is_sorted(indices.begin(), indices.end()));
    EXPECT_EQ(std::adjacent_find(indices.begin(), indices.end()), indices.end());
    for (int32_t i : indices) EXPECT_GE(scores[static_cast<size_t>(i)], worst);
  }
}

TEST(Kernels, OrderIsFastestFirst) {
  EXPECT_EQ(&kernels(), available_kernels().front());
  EXPECT_EQ(std::string(available_kernels().back()->name), "kernels_generic");
}

}  // namespace
}  // namespace plimsoll
