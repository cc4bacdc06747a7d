// Text to tokens and back: the same bytes, and whole characters at every step.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kTokenizer =
      plimsoll::Tokenizer::load(PLIMSOLL_SOURCE_DIR "/demo/model/tokenizer.json");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto plain = kTokenizer->encode_plain(text);
  const auto ids = kTokenizer->encode(text);
  const bool is_utf8 = plimsoll::find_invalid_utf8(text) == std::string_view::npos;
  if (ids.ok() != is_utf8 || plain.ok() != is_utf8) std::abort();
  if (!is_utf8) return 0;
  std::string streamed;
  plimsoll::StreamDecoder decoder(*kTokenizer);
  for (int32_t id : *ids) {
    const std::string part = decoder.push(id);
    if (plimsoll::find_invalid_utf8(part) != std::string::npos) std::abort();
    streamed += part;
  }
  if (streamed + decoder.finish() != text || kTokenizer->decode(*plain) != text) std::abort();
  return 0;
}
