// The choice of the best k of a row of scores where equals straddle the border.
//
// Indexer scores tie often: an entry whose product with every head is negative scores exactly 0.
// Which of the equals belong to the best k is then a matter of convention, and the answers
// published for this architecture follow torch.topk, whose choice falls out of its algorithm: a
// selection by partition around medians of three (Hoare's quickselect as in Musser's introselect),
// or through a heap where k is a small part of the row. This replays those steps, so that the same
// entries are chosen with any standard library.
#pragma once

#include <cstdint>
#include <span>

namespace plimsoll {

struct ScoredEntry {
  float score = 0;
  int32_t index = 0;
};

// Rearranges the row so that its best k, 0 < k < size, come first, in no particular order.
void select_best(std::span<ScoredEntry> row, int k);

}  // namespace plimsoll
