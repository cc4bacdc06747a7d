#include "model/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

namespace plimsoll {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::stable_sort(tokens_, {}, &AddedToken::text);
  for (int i = 0; i < static_cast<int>(tokens_.size()); ++i) {
    prefix_of_.push_back(longest_prefix(i - 1, tokens_[i].text));
    first_bytes_.set(static_cast<uint8_t>(tokens_[i].text[0]));
  }
}

// A token that `text` starts with sorts before `text`, and all between the two start with it too.
// So the last token not after `text` starts with all that `text` starts with: follow its prefixes.
int AddedTokens::longest_prefix(int token_idx, std::string_view text) const {
  while (token_idx >= 0 && !text.starts_with(tokens_[token_idx].text)) {
    token_idx = prefix_of_[token_idx];
  }
  return token_idx;
}

const AddedToken* AddedTokens::at_start_of(std::string_view text) const {
  if (text.empty() || !first_bytes_[static_cast<uint8_t>(text[0])]) return nullptr;
  const auto after = std::ranges::upper_bound(tokens_, text, {}, &AddedToken::text);
  const int token_idx = longest_prefix(static_cast<int>(after - tokens_.begin()) - 1, text);
  return token_idx < 0 ? nullptr : &tokens_[token_idx];
}

const AddedToken* AddedTokens::find(std::string_view text) const {
  const AddedToken* token = at_start_of(text);
  return token != nullptr && token->text == text ? token : nullptr;
}

}  // namespace plimsoll
