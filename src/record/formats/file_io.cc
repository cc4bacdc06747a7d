#include "record/formats/file_io.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>

namespace plimsoll {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

Error failed(const std::string& what, const std::string& path) {
  return io_error("cannot " + what + " " + path + ": " + std::strerror(errno));
}

}  // namespace

Result<std::vector<std::byte>> read_start(const std::string& path, size_t num_bytes) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return io_error(path + " is not a regular file");
  }
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) return failed("open", path);
  const uintmax_t size = fs::file_size(path, error);
  if (error) return io_error("cannot read " + path + ": " + error.message());
  std::vector<std::byte> bytes(std::min<uintmax_t>(size, num_bytes));
  if (std::fread(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) {
    return failed("read", path);
  }
  return bytes;
}

Result<std::vector<std::byte>> read_file(const std::string& path) {
  return read_start(path, std::numeric_limits<size_t>::max());
}

Status write_file(const std::string& path, std::span<const std::byte> bytes) {
  const std::string unfinished = path + ".part";
  File file(std::fopen(unfinished.c_str(), "wb"));
  if (!file) return failed("write", path);
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size();
  if (std::fclose(file.release()) != 0 || !written) {
    const Error error = failed("write", path);
    std::remove(unfinished.c_str());
    return error;
  }
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) return failed("write", path);
  return ok_status();
}

}  // namespace plimsoll
