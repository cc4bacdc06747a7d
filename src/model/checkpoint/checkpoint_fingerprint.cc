#include "model/checkpoint/checkpoint_fingerprint.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

namespace plimsoll {
namespace {

constexpr int64_t kBlockBytes = 4096;
constexpr int64_t kNumParts = 256;

// FNV-1a, 64 bits.
void mix(uint64_t& hash, const char* bytes, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<unsigned char>(bytes[i])) * 0x100000001b3u;
  }
}

Status mix_file(uint64_t& hash, const std::filesystem::path& path) {
  std::error_code error;
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  std::ifstream file(path, std::ios::binary);
  if (error || !file) return io_error("cannot read " + path.string());
  const std::string name = path.filename().string() + " " + std::to_string(size);
  mix(hash, name.data(), static_cast<int64_t>(name.size()));
  std::vector<char> block(kBlockBytes);
  const int64_t stride = std::max(size / kNumParts, kBlockBytes);
  for (int64_t at = 0; at < size; at += stride) {
    const int64_t wanted = std::min(kBlockBytes, size - at);
    file.seekg(at);
    if (!file.read(block.data(), wanted)) return io_error("cannot read " + path.string());
    mix(hash, block.data(), wanted);
  }
  return ok_status();
}

}  // namespace

Result<uint64_t> checkpoint_fingerprint(const std::string& model_dir) {
  std::vector<std::filesystem::path> files = {std::filesystem::path(model_dir) / "config.json"};
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model_dir, error)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  if (error) return io_error("cannot list " + model_dir + ": " + error.message());
  std::sort(files.begin() + 1, files.end());
  uint64_t hash = 0xcbf29ce484222325u;
  for (const auto& file : files) {
    if (Status status = mix_file(hash, file); !status.ok()) return status.error();
  }
  return hash;
}

}  // namespace plimsoll
