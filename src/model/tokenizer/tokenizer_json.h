// Reads tokenizer.json (Hugging Face tokenizers' format): added tokens, a sequence of splits by
// regular expressions, and byte-level BPE. Anything else that would change a token is refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/regex_splitter.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct TokenizerParts {
  AddedTokens added;
  std::vector<RegexSplitter> splits;  // each cuts the pieces that those before it left
  Bpe bpe;
  bool whole_pieces_first = false;                 // a piece that is a token is not merged
  std::unordered_map<std::string, int32_t> id_of;  // by bytes, without added tokens
  std::vector<std::string> bytes_of;               // by id; empty where an id is not used
};

Result<TokenizerParts> read_tokenizer_json(std::string_view text);

}  // namespace plimsoll
