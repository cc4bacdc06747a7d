#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer/regex_splitter.h"

#include <pcre2.h>

#include <algorithm>

namespace plimsoll {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;  // backtracking steps for one match
constexpr uint32_t kHeapLimitKib = 64 * 1024;

std::string message(int error) {
  char text[256] = {};
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

// \s and \S as Unicode has them. PCRE2's also take U+180E, which stopped being white space in
// Unicode 6.3; the tokenizers that models are trained with do not.
std::string with_unicode_spaces(std::string_view pattern) {
  std::string exact;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view escape = pattern.substr(i, 2);
    if (escape == "\\s" || escape == "\\S") {
      exact += escape == "\\s" ? "\\p{White_Space}" : "\\P{White_Space}";
      ++i;
    } else if (escape.size() == 2 && escape[0] == '\\') {
      exact += escape;
      ++i;
    } else {
      exact += pattern[i];
    }
  }
  return exact;
}

struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

void RegexSplitter::Free::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

Result<RegexSplitter> RegexSplitter::compile(const std::string& pattern) {
  // \C would match part of a character.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  const std::string exact = with_unicode_spaces(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  RegexSplitter splitter;
  splitter.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(exact.data()), exact.size(),
                                     kOptions, &error, &offset, nullptr));
  if (!splitter.code_) {
    return corrupt_file("the regular expression " + pattern + " fails before " +
                        exact.substr(std::min(offset, exact.size())) + ": " + message(error));
  }
  // Where there is no just-in-time compiler, the interpreter gives the same matches.
  pcre2_jit_compile(splitter.code_.get(), PCRE2_JIT_COMPLETE);
  return splitter;
}

Status RegexSplitter::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> match(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatch> context(
      pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
  size_t piece_begin = 0;
  size_t search_from = 0;
  while (search_from < text.size()) {
    const int found = pcre2_match(code_.get(), subject, text.size(), search_from,
                                  PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return invalid_argument("cannot split the text into words: " + message(found));
    }
    if (span[0] < piece_begin || span[1] <= span[0]) {  // \K in a lookbehind can do so
      return unsupported("a regular expression of the tokenizer matches backwards");
    }
    if (span[0] > piece_begin) pieces.push_back(text.substr(piece_begin, span[0] - piece_begin));
    pieces.push_back(text.substr(span[0], span[1] - span[0]));
    piece_begin = search_from = span[1];
  }
  if (piece_begin < text.size()) pieces.push_back(text.substr(piece_begin));
  return ok_status();
}

}  // namespace plimsoll
