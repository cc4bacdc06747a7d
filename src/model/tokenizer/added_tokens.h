// Texts such as <｜User｜> that are one token of their own wherever they stand, found by longest
// match.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

struct AddedToken {
  std::string text;  // not empty
  int32_t id = 0;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // The longest one that `text` starts with; null if there is none.
  const AddedToken* at_start_of(std::string_view text) const;

  // The one whose text is exactly this; null if there is none.
  const AddedToken* find(std::string_view text) const;

 private:
  int longest_prefix(int token_idx, std::string_view text) const;

  std::vector<AddedToken> tokens_;  // ascending by text
  std::vector<int> prefix_of_;      // the longest other token that a token starts with; -1: none
  std::bitset<256> first_bytes_;
};

}  // namespace plimsoll
