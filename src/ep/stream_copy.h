// A copy for rows that nobody here will look at soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace plimsoll {

// memcpy that writes around the caches: the lines it writes are not read first, and what the caches
// hold stays there. Done when it returns, for other threads and processes too.
inline void stream_copy(void* to, const void* from, size_t num_bytes) {
#ifdef __SSE2__
  constexpr size_t kLine = 64;
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(from);
  size_t num_head = -reinterpret_cast<uintptr_t>(out) % kLine;
  if (num_head > num_bytes) num_head = num_bytes;
  if (num_head > 0) std::memcpy(out, in, num_head);
  size_t done = num_head;
  for (; done + kLine <= num_bytes; done += kLine) {
    for (size_t at = done; at < done + kLine; at += sizeof(__m128i)) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + at));
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + at), bytes);
    }
  }
  if (done < num_bytes) std::memcpy(out + done, in + done, num_bytes - done);
  _mm_sfence();
#else
  if (num_bytes > 0) std::memcpy(to, from, num_bytes);
#endif
}

}  // namespace plimsoll
