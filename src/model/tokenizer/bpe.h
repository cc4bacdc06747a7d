// Byte-pair encoding of one piece of text: tokens for its bytes, merged pair by pair, the
// lowest-ranked pair first and the leftmost among equals.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace plimsoll {

struct BpeMerge {
  int32_t rank = 0;
  int32_t merged = 0;
};

class Bpe {
 public:
  // byte_tokens[b] is the token of the single byte b, -1 if the vocabulary has none.
  std::vector<int32_t> byte_tokens = std::vector<int32_t>(256, -1);

  void add_merge(int32_t left, int32_t right, BpeMerge merge) { merges_[key(left, right)] = merge; }

  // Appends the tokens of `piece`, in O(n log n). All its bytes must have tokens.
  void encode(std::string_view piece, std::vector<int32_t>& tokens) const;

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  std::unordered_map<uint64_t, BpeMerge> merges_;
};

}  // namespace plimsoll
