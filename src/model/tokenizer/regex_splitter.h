// Cuts text at the matches of a regular expression, as the tokenizer's Split with behaviour
// Isolated does: every match is a piece, and so is everything between matches.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/result.h"

struct pcre2_real_code_8;

namespace plimsoll {

class RegexSplitter {
 public:
  static Result<RegexSplitter> compile(const std::string& pattern);

  // Appends the pieces of `text`, which must be valid UTF-8, in order. Fails where matching would
  // take too long.
  Status split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace plimsoll
