#include "model/tokenizer/utf8.h"

#include <cstdint>

namespace plimsoll {
namespace {

struct Lead {
  int num_bytes = 0;  // 0: no character starts so
  // What the second byte must be: narrower than 80..BF where overlong forms and surrogates lie.
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Lead classify(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

Utf8Character next_utf8(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const Lead lead = classify(at(0));
  if (lead.num_bytes == 0) return {Utf8Character::kInvalid, 1};
  if (lead.num_bytes == 1) return {Utf8Character::kValid, 1, at(0)};
  char32_t code_point = at(0) & (0x7F >> lead.num_bytes);
  for (size_t i = 1; i < static_cast<size_t>(lead.num_bytes); ++i) {
    if (i == bytes.size()) return {Utf8Character::kIncomplete, i};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (at(i) < min || at(i) > max) return {Utf8Character::kInvalid, i};
    code_point = code_point << 6 | (at(i) & 0x3F);
  }
  return {Utf8Character::kValid, static_cast<size_t>(lead.num_bytes), code_point};
}

size_t find_invalid_utf8(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Character next = next_utf8(bytes.substr(i));
    if (next.kind != Utf8Character::kValid) return i;
    i += next.num_bytes;
  }
  return std::string_view::npos;
}

void take_utf8(std::string& bytes, std::string& text) {
  size_t taken = 0;
  while (taken < bytes.size()) {
    const std::string_view left = std::string_view(bytes).substr(taken);
    const Utf8Character next = next_utf8(left);
    if (next.kind == Utf8Character::kIncomplete) break;
    text +=
        next.kind == Utf8Character::kValid ? left.substr(0, next.num_bytes) : kReplacementCharacter;
    taken += next.num_bytes;
  }
  bytes.erase(0, taken);
}

}  // namespace plimsoll
