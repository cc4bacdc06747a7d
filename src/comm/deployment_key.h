// The secret that the servers of one deployment share, and proofs of having it: HMAC-SHA-256
// (RFC 2104, by OpenSSL's libcrypto) over what both sides have just said.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "plimsoll/result.h"

namespace plimsoll {

inline constexpr size_t kProofBytes = 32;
using Proof = std::array<std::byte, kProofBytes>;

// The file's bytes without white space at their end: 32 to 4,096 of them. Fails where other users
// of this machine may read the file.
Result<std::string> read_deployment_key(const std::string& path);

Result<Proof> prove(std::string_view key, std::span<const std::byte> what);
// In a time that does not depend on where they differ.
bool same_proof(const Proof& a, const Proof& b);
// Bytes that nobody can guess; false where the system has none.
bool fill_at_random(std::span<std::byte> bytes);

// A router's word for `text`, such as the address of a prefill server: "<text>;<time>;<proof>".
// The time is in seconds, as the system's clock has it.
Result<std::string> sign(std::string_view key, std::string_view text, int64_t now_s);
// The text, where the word was signed with the key at most `kSignatureAge` seconds from now; empty
// otherwise.
inline constexpr int64_t kSignatureAge = 300;
std::string signed_text(std::string_view key, std::string_view word, int64_t now_s);

}  // namespace plimsoll
