// The choice of the best k of a row of scores where equals straddle the border.
//
// Indexer scores tie often: an entry whose product with every head is negative scores exactly 0.
// Which of the equals belong to the best k is then a matter of convention, and the answers
// published for this architecture follow torch.topk, whose choice falls out of its algorithm: a
// selection by partition around medians of three (Hoare's quickselect as in Musser's introselect),
// or through a heap where k is a small part of the row. This replays those steps, so that the same
// entries are chosen with any standard library. It is constexpr for the GPU's sake (cuda/kernels),
// where one thread runs the very same steps.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace plimsoll {

struct ScoredEntry {
  float score = 0;
  int32_t index = 0;
};

namespace top_scores {

using Row = std::span<ScoredEntry>;

constexpr bool better(const ScoredEntry& a, const ScoredEntry& b) {
  return a.score > b.score;
}

// Lets `value` fall from the top of the heap's empty place down to a leaf, then rise to where it
// belongs; the worst entry is on top.
constexpr void place_in_heap(Row heap, size_t hole, ScoredEntry value) {
  const size_t top = hole;
  for (size_t child = 2 * hole + 2; child <= heap.size(); child = 2 * hole + 2) {
    if (child == heap.size() || better(heap[child], heap[child - 1])) --child;
    heap[hole] = heap[child];
    hole = child;
  }
  while (hole > top && better(heap[(hole - 1) / 2], value)) {
    heap[hole] = heap[(hole - 1) / 2];
    hole = (hole - 1) / 2;
  }
  heap[hole] = value;
}

// Keeps the best `count` in a heap at the front while the others pass by.
constexpr void select_through_heap(Row row, size_t count) {
  const Row heap = row.first(count);
  for (size_t parent = count / 2; parent-- > 0;) place_in_heap(heap, parent, heap[parent]);
  for (size_t i = count; i < row.size(); ++i) {
    if (!better(row[i], heap[0])) continue;
    const ScoredEntry value = std::exchange(row[i], heap[0]);
    place_in_heap(heap, 0, value);
  }
}

// Swaps the middle one of the second, the middle and the last entry to the front.
constexpr void median_to_front(Row row) {
  ScoredEntry& a = row[1];
  ScoredEntry& b = row[row.size() / 2];
  ScoredEntry& c = row.back();
  ScoredEntry& low = better(a, b) ? a : b;
  ScoredEntry& high = better(a, b) ? b : a;
  if (better(high, c)) {
    std::swap(row[0], high);
  } else {
    std::swap(row[0], better(low, c) ? c : low);
  }
}

// Parts the row at its first entry: returns where the entries that are no better begin.
constexpr size_t partition_at_front(Row row) {
  const ScoredEntry pivot = row[0];
  size_t first = 1;
  size_t last = row.size();
  while (true) {
    while (better(row[first], pivot)) ++first;
    --last;
    while (better(pivot, row[last])) --last;
    if (first >= last) return first;
    std::swap(row[first], row[last]);
    ++first;
  }
}

constexpr void sort_few(Row row) {
  for (size_t i = 1; i < row.size(); ++i) {
    const ScoredEntry value = row[i];
    size_t hole = i;
    for (; hole > 0 && better(value, row[hole - 1]); --hole) row[hole] = row[hole - 1];
    row[hole] = value;
  }
}

// Afterwards entry `nth` is the one a full sort would put there, with none better behind it.
constexpr void select_nth(Row row, size_t nth) {
  int splits_left = 2 * (std::bit_width(row.size()) - 1);
  while (row.size() > 3) {
    if (splits_left-- == 0) {
      select_through_heap(row, nth + 1);
      std::swap(row[0], row[nth]);
      return;
    }
    median_to_front(row);
    const size_t cut = partition_at_front(row);
    if (cut <= nth) {
      row = row.subspan(cut);
      nth -= cut;
    } else {
      row = row.first(cut);
    }
  }
  sort_few(row);
}

}  // namespace top_scores

// Rearranges the row so that its best k, 0 < k < size, come first, in no particular order.
constexpr void select_best(std::span<ScoredEntry> row, int k) {
  const size_t kHeapRatio = 64;  // from here on the heap is used
  const size_t count = static_cast<size_t>(k);
  if (count * kHeapRatio <= row.size()) {
    top_scores::select_through_heap(row, count);
  } else {
    top_scores::select_nth(row, count - 1);
  }
}

}  // namespace plimsoll
