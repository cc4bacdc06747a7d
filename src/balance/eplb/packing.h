// Greedy packing as EPLB does it: heaviest first, onto the lightest pack that has room.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

// A load, not negative, and an index as one integer that orders by load, then index.
inline uint64_t order_key(float load, uint32_t index) {
  return uint64_t{std::bit_cast<uint32_t>(load + 0.0f)} << 32 | index;  // + 0: a zero has no sign
}
inline uint32_t key_index(uint64_t key) {
  return static_cast<uint32_t>(key);
}

// The keys of `loads` by falling load, key_index() giving the index. Equal loads come in the order
// in which the reference's sort leaves them: not that of their indices.
void sort_descending(std::span<const float> loads, std::vector<uint64_t>& keys);

// A binary min-heap of keys whose least can be replaced in one descent.
class MinHeap {
 public:
  void assign(std::span<const uint64_t> keys);
  uint64_t top() const { return keys_[0]; }
  size_t size() const { return keys_.size(); }
  void replace_top(uint64_t key);
  void pop();

 private:
  void sift_down(size_t i);
  std::vector<uint64_t> keys_;
};

class Packer {
 public:
  // Packs weights.size() items into num_packs packs of equal numbers; item i goes to position
  // rank_in_pack[i] of pack_index[i].
  void pack(std::span<const float> weights,
            int num_packs,
            std::span<int32_t> pack_index,
            std::span<int32_t> rank_in_pack);

 private:
  std::vector<uint64_t> order_;
  std::vector<uint64_t> empty_;
  std::vector<float> pack_weight_;
  std::vector<int32_t> pack_items_;
  MinHeap lightest_;
};

}  // namespace plimsoll
