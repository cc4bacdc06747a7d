// Python's random.Random, as far as SGLang's static dispatch draws from it.
//
// The generator is MT19937 (Matsumoto and Nishimura, 1998), seeded by their init_by_array with the
// seed as its only word. sample and shuffle take the steps that CPython documents for theirs since
// 3.2 (Lib/random.py), as the answers must be the same.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace plimsoll {

class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed) {
    state_[0] = 19650218;
    for (uint32_t i = 1; i < kSize; ++i) state_[i] = 1812433253 * mixed(i) + i;
    uint32_t i = 1;
    for (uint32_t k = 0; k < kSize; ++k) {
      state_[i] = (state_[i] ^ mixed(i) * 1664525) + seed;
      advance(i);
    }
    for (uint32_t k = 0; k < kSize - 1; ++k) {
      state_[i] = (state_[i] ^ mixed(i) * 1566083941) - i;
      advance(i);
    }
    state_[0] = 0x80000000;
  }

  // A number below n, which is at least 1.
  uint32_t below(uint32_t n) {
    const int shift = 32 - std::bit_width(n);
    uint32_t drawn = next() >> shift;
    while (drawn >= n) drawn = next() >> shift;
    return drawn;
  }

  // Appends `count` different elements of `from`.
  void sample(std::span<const int32_t> from, uint32_t count, std::vector<int32_t>& to) {
    const auto size = static_cast<uint32_t>(from.size());
    if (size <= max_pool_size(count)) {
      pool_.assign(from.begin(), from.end());
      for (uint32_t i = 0; i < count; ++i) {
        const uint32_t at = below(size - i);
        to.push_back(pool_[at]);
        pool_[at] = pool_[size - i - 1];
      }
      return;
    }
    is_taken_.assign(size, 0);
    for (uint32_t i = 0; i < count; ++i) {
      uint32_t at = below(size);
      while (is_taken_[at]) at = below(size);
      is_taken_[at] = 1;
      to.push_back(from[at]);
    }
  }

  void shuffle(std::span<int32_t> values) {
    for (auto i = static_cast<uint32_t>(values.size()); i > 1; --i) {
      std::swap(values[i - 1], values[below(i)]);
    }
  }

 private:
  static constexpr uint32_t kSize = 624;

  uint32_t mixed(uint32_t i) const { return state_[i - 1] ^ (state_[i - 1] >> 30); }

  // The next place to seed; the first one is only a copy of the last.
  void advance(uint32_t& i) {
    if (++i < kSize) return;
    state_[0] = state_[kSize - 1];
    i = 1;
  }

  // Above this size CPython's sample draws places and skips those it has; below it keeps a pool.
  static uint32_t max_pool_size(uint32_t count) {
    if (count <= 5) return 21;
    const double quarters = std::ceil(std::log(count * 3.0) / std::log(4.0));
    return 21 + (1u << (2 * static_cast<uint32_t>(quarters)));
  }

  void twist() {
    for (uint32_t i = 0; i < kSize; ++i) {
      const uint32_t bits = (state_[i] & 0x80000000) | (state_[(i + 1) % kSize] & 0x7fffffff);
      state_[i] = state_[(i + 397) % kSize] ^ (bits >> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    used_ = 0;
  }

  uint32_t next() {
    if (used_ == kSize) twist();
    uint32_t word = state_[used_++];
    word ^= word >> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return word ^ (word >> 18);
  }

  uint32_t state_[kSize];
  uint32_t used_ = kSize;
  std::vector<int32_t> pool_;
  std::vector<uint8_t> is_taken_;
};

}  // namespace plimsoll
