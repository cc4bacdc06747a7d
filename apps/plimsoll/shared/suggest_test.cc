#include "shared/suggest.h"

#include <gtest/gtest.h>

#include <array>

namespace plimsoll {
namespace {

TEST(EditDistance, CountsSingleCharacterEdits) {
  EXPECT_EQ(edit_distance("plan", "plan"), 0);
  EXPECT_EQ(edit_distance("plan", "plain"), 1);
  EXPECT_EQ(edit_distance("plan", "pan"), 1);
  EXPECT_EQ(edit_distance("plan", "plum"), 2);
  EXPECT_EQ(edit_distance("plan", "paln"), 1);  // neighbours swapped
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(Nearest, FindsMisspellingsAndParts) {
  constexpr std::array<std::string_view, 4> kNames = {"ep-size", "nnodes", "enable-waterfill",
                                                      "max-tokens"};
  EXPECT_EQ(nearest("ep-sise", kNames), "ep-size");
  EXPECT_EQ(nearest("max_token", kNames), "max-tokens");
  EXPECT_EQ(nearest("waterfill", kNames), "enable-waterfill");
  EXPECT_EQ(nearest("quantization", kNames), "");
  EXPECT_EQ(nearest("x", kNames), "");
  EXPECT_EQ(nearest("", kNames), "");
}

TEST(DidYouMean, SaysNothingWithoutANearOne) {
  constexpr std::array<std::string_view, 1> kNames = {"ep-size"};
  EXPECT_EQ(did_you_mean("epsize", kNames, "--"), "; did you mean --ep-size?");
  EXPECT_EQ(did_you_mean("elephants", kNames, "--"), "");
}

}  // namespace
}  // namespace plimsoll
