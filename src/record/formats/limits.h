// One table of what bytes from outside may ask for. Larger demands are refused with a clear error.
// docs/security.md lists these numbers and why they are enough.
#pragma once

#include <cstddef>
#include <cstdint>

namespace plimsoll::limits {

// JSON of files and requests.
inline constexpr int kJsonDepth = 64;
inline constexpr size_t kJsonNodesOfFile = size_t{1} << 26;
inline constexpr size_t kJsonNodesOfRequest = size_t{1} << 20;  // and of other servers' answers

// A request of the OpenAI API.
inline constexpr int kChoicesPerPrompt = 128;
inline constexpr int kPromptsPerRequest = 256;
inline constexpr size_t kStopsPerRequest = 16;
inline constexpr size_t kStopBytesPerRequest = size_t{4} << 10;
inline constexpr int64_t kPromptTokensPerRequest = int64_t{1} << 22;  // over all answers
// Log probabilities that an answer sent whole gathers until its end: about 0.5 KB each.
inline constexpr int64_t kHeldLogprobsPerRequest = int64_t{1} << 18;
inline constexpr int64_t kHeldLogprobs = int64_t{1} << 20;  // of all requests together
inline constexpr int kTopLogprobs = 20;

// Recordings that clients may have written to disk within 10 s.
inline constexpr size_t kDumpsPerWindow = 20;

// What a router takes from the servers behind it.
inline constexpr size_t kHealthBytes = size_t{64} << 10;
inline constexpr size_t kRoutedAnswerBytes = size_t{64} << 20;

}  // namespace plimsoll::limits
