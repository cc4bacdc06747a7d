#include "balance/eplb/packing.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace plimsoll {
namespace {

// torch sorts with libstdc++'s std::sort, which leaves equal loads in an order of its own. To have
// that order everywhere, this takes the same steps: introspective sort (Musser, 1997) with the
// median of the second, middle and last for a pivot down to runs of 16, then one insertion sort.
constexpr ptrdiff_t kShortRun = 16;

bool precedes(uint64_t a, uint64_t b) {
  return (a >> 32) < (b >> 32);
}

void move_median_to_front(std::span<uint64_t> keys) {
  uint64_t& a = keys[1];
  uint64_t& b = keys[keys.size() / 2];
  uint64_t& c = keys[keys.size() - 1];
  const auto median = [&]() -> uint64_t& {
    if (precedes(a, b)) return precedes(b, c) ? b : precedes(a, c) ? c : a;
    return precedes(a, c) ? a : precedes(b, c) ? c : b;
  };
  std::swap(keys[0], median());
}

// Splits keys[1..] by keys[0]; equal keys change sides, so neither side grows long on them.
ptrdiff_t partition(std::span<uint64_t> keys) {
  const uint64_t pivot = keys[0];
  ptrdiff_t left = 1;
  ptrdiff_t right = std::ssize(keys);
  for (;; ++left) {
    while (precedes(keys[left], pivot)) ++left;
    do --right;
    while (precedes(pivot, keys[right]));
    if (left >= right) return left;
    std::swap(keys[left], keys[right]);
  }
}

void sort_to_short_runs(std::span<uint64_t> keys, int depth) {
  for (; std::ssize(keys) > kShortRun; --depth) {
    if (depth == 0) return std::partial_sort(keys.begin(), keys.end(), keys.end(), precedes);
    move_median_to_front(keys);
    const ptrdiff_t cut = partition(keys);
    sort_to_short_runs(keys.subspan(cut), depth - 1);
    keys = keys.first(cut);
  }
}

void reference_sort(std::span<uint64_t> keys) {
  sort_to_short_runs(keys, 2 * (std::bit_width(keys.size()) - 1));
  for (size_t i = 1; i < keys.size(); ++i) {
    const uint64_t key = keys[i];
    size_t to = i;
    for (; to > 0 && precedes(key, keys[to - 1]); --to) keys[to] = keys[to - 1];
    keys[to] = key;
  }
}

}  // namespace

void sort_descending(std::span<const float> loads, std::vector<uint64_t>& keys) {
  keys.resize(loads.size());
  for (size_t i = 0; i < loads.size(); ++i) {
    keys[i] = ~order_key(loads[i], ~static_cast<uint32_t>(i));  // falling load, index as it is
  }
  reference_sort(keys);
}

void MinHeap::assign(std::span<const uint64_t> keys) {
  keys_.assign(keys.begin(), keys.end());
  for (size_t i = keys_.size() / 2; i-- > 0;) sift_down(i);
}

void MinHeap::replace_top(uint64_t key) {
  keys_[0] = key;
  sift_down(0);
}

void MinHeap::pop() {
  keys_[0] = keys_.back();
  keys_.pop_back();
  if (!keys_.empty()) sift_down(0);
}

void MinHeap::sift_down(size_t i) {
  const uint64_t key = keys_[i];
  for (size_t child = 2 * i + 1; child < keys_.size(); child = 2 * i + 1) {
    if (child + 1 < keys_.size()) child += keys_[child + 1] < keys_[child];
    if (keys_[child] >= key) break;
    keys_[i] = keys_[child];
    i = child;
  }
  keys_[i] = key;
}

void Packer::pack(std::span<const float> weights,
                  int num_packs,
                  std::span<int32_t> pack_index,
                  std::span<int32_t> rank_in_pack) {
  const int items_per_pack = static_cast<int>(weights.size()) / num_packs;
  sort_descending(weights, order_);
  pack_weight_.assign(num_packs, 0.0f);
  pack_items_.assign(num_packs, 0);
  empty_.resize(num_packs);
  std::iota(empty_.begin(), empty_.end(), uint64_t{0});
  lightest_.assign(empty_);
  for (const uint64_t key : order_) {
    const uint32_t item = key_index(key);
    const uint32_t pack = key_index(lightest_.top());
    pack_index[item] = static_cast<int32_t>(pack);
    rank_in_pack[item] = pack_items_[pack]++;
    pack_weight_[pack] += weights[item];
    if (pack_items_[pack] == items_per_pack) {
      lightest_.pop();
    } else {
      lightest_.replace_top(order_key(pack_weight_[pack], pack));
    }
  }
}

}  // namespace plimsoll
