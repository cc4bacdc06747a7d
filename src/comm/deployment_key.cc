#include "comm/deployment_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include <charconv>
#include <fstream>
#include <vector>

namespace plimsoll {
namespace {

constexpr size_t kMinKeyBytes = 32;
constexpr size_t kMaxKeyBytes = 4096;

std::string hex(const Proof& proof) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : proof) {
    text += kDigits[static_cast<unsigned>(byte) >> 4];
    text += kDigits[static_cast<unsigned>(byte) & 15];
  }
  return text;
}

}  // namespace

Result<std::string> read_deployment_key(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return io_error("cannot read the deployment's key: " + path + " is no file");
  }
  if ((status.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return invalid_argument("others may read the deployment's key: chmod o-rw " + path);
  }
  std::ifstream file(path, std::ios::binary);
  std::string key(kMaxKeyBytes + 1, '\0');
  file.read(key.data(), static_cast<std::streamsize>(key.size()));
  key.resize(static_cast<size_t>(file.gcount()));
  const bool is_short_enough = key.size() <= kMaxKeyBytes;
  key.erase(key.find_last_not_of(" \t\r\n") + 1);
  if (key.size() >= kMinKeyBytes && is_short_enough) return key;
  return invalid_argument(path + " holds " + std::to_string(key.size()) +
                          " bytes, expected a key of 32 to 4096, such as `openssl rand -hex 32` "
                          "prints");
}

Result<Proof> prove(std::string_view key, std::span<const std::byte> what) {
  Proof proof;
  unsigned length = kProofBytes;
  // HMAC takes no null for a key.
  const unsigned char* done =
      HMAC(EVP_sha256(), key.empty() ? "" : key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(what.data()), what.size(),
           reinterpret_cast<unsigned char*>(proof.data()), &length);
  if (done == nullptr || length != kProofBytes) return unavailable("libcrypto computes no HMAC");
  return proof;
}

bool same_proof(const Proof& a, const Proof& b) {
  return CRYPTO_memcmp(a.data(), b.data(), kProofBytes) == 0;
}

bool fill_at_random(std::span<std::byte> bytes) {
  return RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()),
                    static_cast<int>(bytes.size())) == 1;
}

Result<std::string> sign(std::string_view key, std::string_view text, int64_t now_s) {
  const std::string dated = std::string(text) + ";" + std::to_string(now_s);
  const std::string said = "plimsoll router " + dated;
  const auto proof = prove(key, std::as_bytes(std::span(said)));
  if (!proof.ok()) return proof.error();
  return dated + ";" + hex(*proof);
}

std::string signed_text(std::string_view key, std::string_view word, int64_t now_s) {
  const size_t proof_at = word.rfind(';');
  if (proof_at == word.npos || proof_at == 0) return "";
  const size_t time_at = word.rfind(';', proof_at - 1);
  if (time_at == word.npos) return "";
  const std::string_view time = word.substr(time_at + 1, proof_at - time_at - 1);
  int64_t signed_at = 0;
  const auto parsed = std::from_chars(time.data(), time.data() + time.size(), signed_at);
  if (parsed.ec != std::errc() || parsed.ptr != time.data() + time.size()) return "";
  if (signed_at < now_s - kSignatureAge || signed_at > now_s + kSignatureAge) return "";
  const std::string_view text = word.substr(0, time_at);
  const Result<std::string> expected = sign(key, text, signed_at);
  if (!expected.ok() || expected->size() != word.size()) return "";
  const bool same = CRYPTO_memcmp(expected->data(), word.data(), word.size()) == 0;
  return same ? std::string(text) : "";
}

}  // namespace plimsoll
