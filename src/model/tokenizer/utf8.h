// UTF-8, one character at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace plimsoll {

// What stands at the front of some bytes.
struct Utf8Character {
  enum Kind {
    kValid,       // a whole character
    kInvalid,     // bytes that no continuation can mend
    kIncomplete,  // the bytes end within a character that may still become valid
  };
  Kind kind = kValid;
  size_t num_bytes = 0;
  char32_t code_point = 0;  // of a valid character
};

// `bytes` must not be empty.
Utf8Character next_utf8(std::string_view bytes);

// The offset of the first byte that is not part of a whole, valid character; npos if there is none.
size_t find_invalid_utf8(std::string_view bytes);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Moves all whole characters from the front of `bytes` to the end of `text`, with U+FFFD for what
// is invalid; what may still be completed stays.
void take_utf8(std::string& bytes, std::string& text);

}  // namespace plimsoll
