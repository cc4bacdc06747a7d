#include "model/kernels/top_scores.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <set>

namespace plimsoll {
namespace {

std::vector<ScoredEntry> random_row(int size, int num_values) {
  std::vector<ScoredEntry> row(static_cast<size_t>(size));
  for (int i = 0; i < size; ++i) {
    row[static_cast<size_t>(i)] = {static_cast<float>(*rc::gen::inRange(0, num_values)), i};
  }
  return row;
}

std::set<int32_t> indices(const std::vector<ScoredEntry>& row, int k) {
  std::set<int32_t> chosen;
  for (int i = 0; i < k; ++i) chosen.insert(row[static_cast<size_t>(i)].index);
  return chosen;
}

RC_GTEST_PROP(TopScores, KeepsTheBest, ()) {
  const int size = *rc::gen::inRange(2, 600);
  const int k = *rc::gen::inRange(1, size);
  std::vector<ScoredEntry> row = random_row(size, *rc::gen::inRange(1, 100));
  select_best(row, k);
  float worst_kept = row[0].score;
  for (int i = 0; i < k; ++i) worst_kept = std::min(worst_kept, row[static_cast<size_t>(i)].score);
  for (int i = k; i < size; ++i) RC_ASSERT(row[static_cast<size_t>(i)].score <= worst_kept);
  RC_ASSERT(indices(row, size).size() == static_cast<size_t>(size));
}

#if defined(__GLIBCXX__)
// torch is built with libstdc++: its choice is what std::nth_element or std::partial_sort makes
// there.
RC_GTEST_PROP(TopScores, ChoosesAmongEqualsAsTorchDoes, ()) {
  const int size = *rc::gen::inRange(2, 2000);
  const int k = *rc::gen::inRange(1, size);
  std::vector<ScoredEntry> row = random_row(size, *rc::gen::inRange(1, 100));
  std::vector<ScoredEntry> expected = row;
  const auto better = [](const ScoredEntry& a, const ScoredEntry& b) { return a.score > b.score; };
  if (k * 64 <= size) {
    std::partial_sort(expected.begin(), expected.begin() + k, expected.end(), better);
  } else {
    std::nth_element(expected.begin(), expected.begin() + k - 1, expected.end(), better);
  }
  select_best(row, k);
  RC_ASSERT(indices(row, k) == indices(expected, k));
}
#endif

}  // namespace
}  // namespace plimsoll
