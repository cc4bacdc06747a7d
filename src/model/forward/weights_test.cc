// Experts that a process does not hold, and the loading of one that it comes to need.
#include "model/forward/weights.h"

#include <gtest/gtest.h>

#include "model/checkpoint/checkpoint.h"

namespace plimsoll {
namespace {

TEST(Weights, HoldTheWantedExpertsOnlyAndLoadOthersLater) {
  const auto checkpoint = Checkpoint::open(PLIMSOLL_SOURCE_DIR "/testdata/tiny-v4");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const ModelConfig& config = checkpoint->config();
  const auto odd = [](int layer_idx, int expert) { return (layer_idx + expert) % 2 == 1; };
  const auto all = load_weights(*checkpoint, config);
  const auto some = load_weights(*checkpoint, config, odd);
  ASSERT_TRUE(all.ok() && some.ok());
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    ASSERT_EQ(some->layers[l].experts.size(), static_cast<size_t>(config.n_routed_experts));
    EXPECT_TRUE(is_held(some->layers[l].shared_expert));
    for (int e = 0; e < config.n_routed_experts; ++e) {
      ASSERT_EQ(is_held(some->layers[l].experts[e]), odd(l, e));
      const auto one = load_expert(*checkpoint, config, l, e);
      ASSERT_TRUE(one.ok()) << one.error().message;
      const ExpertWeights& expected = all->layers[l].experts[e];
      EXPECT_EQ(one->gate_up.bf16, expected.gate_up.bf16);
      EXPECT_EQ(one->gate_up.f32, expected.gate_up.f32);
      EXPECT_EQ(one->down.bf16, expected.down.bf16);
      EXPECT_EQ(one->down.f32, expected.down.f32);
    }
  }
  EXPECT_FALSE(load_expert(*checkpoint, config, 0, config.n_routed_experts).ok());
}

}  // namespace
}  // namespace plimsoll
