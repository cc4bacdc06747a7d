#include "shared/suggest.h"

#include <algorithm>
#include <vector>

namespace plimsoll {

int edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the dynamic program: two back for swaps, one back, and the one being filled.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(last);
    last.swap(row);
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, change});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

namespace {

// The beginning of a candidate ("ep"), or a telling part of it ("waterfill"), is nearer than any
// misspelling.
int distance_to(std::string_view word, std::string_view candidate) {
  constexpr size_t kTellingLength = 4;
  const size_t at = candidate.find(word);
  if (word.size() >= 2 && at == 0) return 0;
  if (word.size() >= kTellingLength && at != candidate.npos) return 0;
  return edit_distance(word, candidate);
}

}  // namespace

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
  const int length = static_cast<int>(word.size());
  int too_far = std::min(length, std::max(2, length / 3) + 1);
  std::string_view best;
  for (const std::string_view candidate : candidates) {
    const int distance = distance_to(word, candidate);
    if (distance < too_far) {
      best = candidate;
      too_far = distance;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view word,
                         std::span<const std::string_view> candidates,
                         std::string_view prefix) {
  const std::string_view best = nearest(word, candidates);
  if (best.empty()) return "";
  return "; did you mean " + std::string(prefix) + std::string(best) + "?";
}

}  // namespace plimsoll
