#include "cuda/kernels/operand.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "cuda/kernels/linear.h"
#include "cuda/kernels/quantise.h"

namespace plimsoll::gpu {
namespace {

TEST(Operand, PairedPlacesAreAPermutationThatKeepsAThreadsFourInTwoPairs) {
  std::set<int> places;
  for (int k = 0; k < 16; ++k) places.insert(paired_place(k));
  EXPECT_EQ(places.size(), 16u);
  EXPECT_EQ(*places.begin(), 0);
  EXPECT_EQ(*places.rbegin(), 15);
  for (int t = 0; t < 4; ++t) {  // what lane t's register pair holds (wgmma.cuh)
    EXPECT_EQ(paired_place(4 * t), 2 * t);
    EXPECT_EQ(paired_place(4 * t + 1), 2 * t + 1);
    EXPECT_EQ(paired_place(4 * t + 2), 2 * t + 8);
    EXPECT_EQ(paired_place(4 * t + 3), 2 * t + 9);
  }
}

TEST(Quantise, ScaleIsTheNextPowerOfTwoOfThePeakOver448) {
  for (float peak = 1.5e-4f; peak < 1e6f; peak *= 1.037f) {
    const double exact = std::exp2(std::ceil(std::log2(double{peak / kLargestE4m3})));
    EXPECT_EQ(e4m3_scale(peak), exact) << peak;
  }
  EXPECT_EQ(e4m3_scale(448.0f), 1.0f);
  EXPECT_EQ(e4m3_scale(std::nextafter(448.0f, 1000.0f)), 2.0f);
  EXPECT_EQ(e4m3_scale(0.0f), e4m3_scale(kSmallestPeak));
}

TEST(Quantise, RoundsToTheNearestE4m3AndNeverOverflows) {
  EXPECT_EQ(to_e4m3(448.0f, 1.0f), 0x7E);
  EXPECT_EQ(to_e4m3(-1.0f, 1.0f), 0xB8);
  EXPECT_EQ(to_e4m3(17.0f, 1.0f), to_e4m3(16.0f, 1.0f));  // half-way between 16 and 18, to even
  EXPECT_EQ(to_e4m3(19.0f, 1.0f), to_e4m3(20.0f, 1.0f));
  for (float x = 1e-4f; x < 1e5f; x *= 1.1f) {
    EXPECT_LE(to_e4m3(x, e4m3_scale(x)), 0x7E) << x;
  }
}

TEST(Quantise, E8m0IsAPowerOfTwo) {
  EXPECT_EQ(e8m0_value(127), 1.0f);
  EXPECT_EQ(e8m0_value(120), 0x1p-7f);
  EXPECT_EQ(e8m0_value(0), 0x1p-127f);
  EXPECT_EQ(e8m0_value(254), 0x1p127f);
}

// The number of splits is part of what a weight's results are: it depends on the weight alone, and
// a change of it changes bits.
TEST(Linear, SplitsOfDeepSeekV4FlashsWeights) {
  const auto splits = [](WeightType type, int out, int in) {
    return linear_splits({type, out, in});
  };
  EXPECT_EQ(splits(WeightType::kE4m3, 1024, 4096), 8);
  EXPECT_EQ(splits(WeightType::kE4m3, 512, 4096), 8);
  EXPECT_EQ(splits(WeightType::kE4m3, 32768, 1024), 1);
  EXPECT_EQ(splits(WeightType::kE4m3, 8192, 4096), 1);
  EXPECT_EQ(splits(WeightType::kE4m3, 4096, 8192), 2);
  EXPECT_EQ(splits(WeightType::kBfloat16, 129280, 4096), 1);
  EXPECT_EQ(splits(WeightType::kBfloat16, 256, 4096), 8);
}

TEST(Linear, RefusesWhatDoesNotFit) {
  const LinearWeight weight{
      WeightType::kE4m3, 128, 256, 1, reinterpret_cast<void*>(64), reinterpret_cast<uint8_t*>(64)};
  const auto refused = [](const LinearWeight& w, const Operand& x) {
    return linear(w, x, {}, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused(weight, {OperandType::kBfloat16, 1, 256}));        // not made for e4m3
  EXPECT_TRUE(refused(weight, {OperandType::kBfloat16Paired, 1, 128}));  // other channels
  EXPECT_TRUE(refused(weight, {OperandType::kE4m3, 1, 256}));            // no scales
  LinearWeight odd = weight;
  odd.in = 192;
  EXPECT_TRUE(refused(odd, {OperandType::kBfloat16Paired, 1, 192}));
  EXPECT_FALSE(refused(weight, {OperandType::kBfloat16Paired, 0, 256}));  // no rows: nothing to do
}

}  // namespace
}  // namespace plimsoll::gpu
