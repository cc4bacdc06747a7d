// tokenizer.json: what is accepted must encode and decode without harm.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer =
      plimsoll::Tokenizer::parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!tokenizer.ok()) return 0;
  (void)tokenizer->encode("Hello, world 12345\n\n<|a|> naïve 中文 aaaa abab");
  (void)tokenizer->decode(std::vector<int32_t>{-1, 0, 200, 255, 256, 1 << 30});
  return 0;
}
