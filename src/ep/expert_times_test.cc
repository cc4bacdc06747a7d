#include "ep/expert_times.h"

#include <gtest/gtest.h>

#include <random>

namespace plimsoll {
namespace {

// Steps of 1 to 64 experts with 1 to 32 tokens each, at 20 µs an expert and 3 µs a token, give or
// take the noise.
ExpertTimes synthetic(double noise, int num_samples) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> error(-noise, noise);
  ExpertTimes times;
  for (int i = 0; i < num_samples; ++i) {
    const int64_t experts = 1 + random() % 64;
    const int64_t tokens = experts * (1 + random() % 32);
    const double ns = 20000.0 * static_cast<double>(experts) + 3000.0 * static_cast<double>(tokens);
    times.add(experts, tokens, ns * (1 + error(random)) * 1e-9);
  }
  return times;
}

TEST(ExpertTimes, FindsTheTimesOfExactSamples) {
  const auto found = fit(synthetic(0, 200));
  ASSERT_TRUE(found);
  EXPECT_NEAR(found->ns_per_expert, 20000, 1e-3);
  EXPECT_NEAR(found->ns_per_token, 3000, 1e-3);
  EXPECT_NEAR(found->r_squared, 1, 1e-9);
  EXPECT_NEAR(found->relative_error, 0, 1e-4);
  EXPECT_EQ(found->num_samples, 200);
}

TEST(ExpertTimes, FindsThemInNoise) {
  const auto found = fit(synthetic(0.2, 5000));
  ASSERT_TRUE(found);
  EXPECT_NEAR(found->ns_per_expert, 20000, 500);
  EXPECT_NEAR(found->ns_per_token, 3000, 100);
  EXPECT_GT(found->r_squared, 0.9);
  EXPECT_LT(found->r_squared, 1);
  EXPECT_GT(found->relative_error, 0.05);
}

TEST(ExpertTimes, SumsOfRanksAreSumsOfSamples) {
  ExpertTimes both = synthetic(0.1, 100);
  ExpertTimes other;
  other.add(5, 50, 1e-3);
  both += other;
  ExpertTimes all = synthetic(0.1, 100);
  all.add(5, 50, 1e-3);
  EXPECT_DOUBLE_EQ(fit(both)->ns_per_expert, fit(all)->ns_per_expert);
}

TEST(ExpertTimes, SaysNothingOfSamplesThatAreAlike) {
  ExpertTimes times;
  EXPECT_FALSE(fit(times));
  for (int i = 1; i < 10; ++i) times.add(i, 2 * i, 1e-6 * i);
  EXPECT_FALSE(fit(times));
  times.add(0, 0, 1);  // a rank without work
  EXPECT_EQ(times.num_samples, 9);
}

TEST(ExpertTimes, NeitherIsNegative) {
  ExpertTimes falling;  // more experts, less time
  for (int i = 1; i <= 10; ++i) falling.add(i, 10, 1e-6 * (20 - i));
  EXPECT_EQ(fit(falling)->ns_per_expert, 0);
  EXPECT_GT(fit(falling)->ns_per_token, 0);
  ExpertTimes steep;
  for (int i = 5; i <= 10; ++i) steep.add(i, 10, 1e-6 * (i - 4));
  EXPECT_GT(fit(steep)->ns_per_expert, 0);
  EXPECT_EQ(fit(steep)->ns_per_token, 0);
}

}  // namespace
}  // namespace plimsoll
