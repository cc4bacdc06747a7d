#include "shared/text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace plimsoll {

Result<std::string> read_text(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             std::fclose);
  if (!file) return io_error("cannot open " + path + ": " + std::strerror(errno));
  std::string text;
  char chunk[1 << 16];
  size_t size = 0;
  while ((size = std::fread(chunk, 1, sizeof(chunk), file.get())) > 0) text.append(chunk, size);
  if (std::ferror(file.get())) return io_error("cannot read " + path + ": " + std::strerror(errno));
  return text;
}

}  // namespace plimsoll
