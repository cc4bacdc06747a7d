// Zip archives in memory, as torch.save writes them: every entry stored, none compressed.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"

struct zip;

namespace plimsoll {

class ZipReader {
 public:
  // Refuses compressed and encrypted entries, and entries that together exceed the file: reading
  // them all never takes more memory than the file. `bytes` must outlive the reader.
  static Result<ZipReader> open(std::span<const std::byte> bytes);

  const std::vector<std::string>& names() const { return names_; }
  // Fails where there is no such entry, or where its checksum is wrong.
  Result<std::vector<std::byte>> read(const std::string& name) const;

 private:
  struct Close {
    void operator()(zip* archive) const;
  };
  std::unique_ptr<zip, Close> archive_;
  std::vector<std::string> names_;
};

struct ZipEntry {
  std::string name;
  std::vector<std::byte> bytes;
};

// The same entries always give the same bytes.
Result<std::vector<std::byte>> make_zip(std::span<const ZipEntry> entries);

}  // namespace plimsoll
