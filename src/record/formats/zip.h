// Zip archives in memory, as torch.save writes them: every entry stored, none compressed.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"

struct zip;
struct zip_file;

namespace plimsoll {

class ZipReader {
 public:
  // Refuses compressed and encrypted entries, and entries that together exceed the file: reading
  // them all never takes more memory than the file. `bytes` must outlive the reader; a file must
  // stay as it is.
  static Result<ZipReader> open(std::span<const std::byte> bytes);
  static Result<ZipReader> open_file(const std::string& path);

  const std::vector<std::string>& names() const { return names_; }
  size_t file_size() const { return file_size_; }
  // In bytes; fails where there is no such entry.
  Result<size_t> size_of(const std::string& name) const;
  // Fails where there is no such entry, or where its checksum is wrong.
  Result<std::vector<std::byte>> read(const std::string& name) const;
  // A part of an entry. Parts in ascending order are read in one go, and where they reach the end
  // the checksum is compared.
  Status read_part(const std::string& name, size_t begin, std::span<std::byte> part);

 private:
  struct Close {
    void operator()(zip* archive) const;
    void operator()(zip_file* entry) const;
  };
  static Result<ZipReader> of(zip* archive, size_t file_size);
  Status skip(size_t num_bytes);

  std::unique_ptr<zip, Close> archive_;
  std::vector<std::string> names_;
  size_t file_size_ = 0;
  std::unique_ptr<zip_file, Close> open_entry_;  // that read_part goes on with
  std::string open_name_;
  size_t position_ = 0;  // in it
};

struct ZipEntry {
  std::string name;
  std::vector<std::byte> bytes;
};

// The same entries always give the same bytes.
Result<std::vector<std::byte>> make_zip(std::span<const ZipEntry> entries);

}  // namespace plimsoll
