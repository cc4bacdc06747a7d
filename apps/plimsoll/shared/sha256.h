// SHA-256 (FIPS 180-4): the fingerprint by which `eval` says that two runs gave the same bits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace plimsoll {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  std::string hex_digest();  // once; lower case

 private:
  void compress();

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_ = {};
  size_t num_buffered_ = 0;
  uint64_t num_bytes_ = 0;
};

}  // namespace plimsoll
