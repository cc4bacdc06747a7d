#include "record/formats/zip.h"

#include <zip.h>

#include <algorithm>
#include <filesystem>

namespace plimsoll {
namespace {

constexpr uint16_t kFirstDosDate = 0x21;  // 1 January 1980

std::string message(zip_error_t* error) {
  std::string text = zip_error_strerror(error);
  zip_error_fini(error);
  return text;
}

Error damaged(const std::string& name) {
  return corrupt_file("its zip entry " + name + " is damaged");
}

}  // namespace

void ZipReader::Close::operator()(zip* archive) const {
  zip_discard(archive);
}
void ZipReader::Close::operator()(zip_file* entry) const {
  zip_fclose(entry);
}

Result<ZipReader> ZipReader::open(std::span<const std::byte> bytes) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  zip_t* archive = source ? zip_open_from_source(source, ZIP_RDONLY, &error) : nullptr;
  if (!archive) {
    zip_source_free(source);
    return corrupt_file("it is not a whole zip archive: " + message(&error));
  }
  return of(archive, bytes.size());
}

Result<ZipReader> ZipReader::open_file(const std::string& path) {
  std::error_code failed;
  const uintmax_t size = std::filesystem::file_size(path, failed);
  if (failed) return io_error("cannot open " + path + ": " + failed.message());
  int code = 0;
  zip_t* archive = zip_open(path.c_str(), ZIP_RDONLY, &code);
  if (!archive) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    return corrupt_file("it is not a whole zip archive: " + message(&error));
  }
  return of(archive, size);
}

Result<ZipReader> ZipReader::of(zip* archive, size_t file_size) {
  ZipReader reader;
  reader.archive_.reset(archive);
  reader.file_size_ = file_size;
  uint64_t total = 0;
  for (zip_int64_t i = 0; i < zip_get_num_entries(archive, 0); ++i) {
    zip_stat_t entry;
    zip_stat_init(&entry);
    constexpr zip_uint64_t kNeeded =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if (zip_stat_index(archive, i, 0, &entry) != 0 || (entry.valid & kNeeded) != kNeeded) {
      return corrupt_file("its zip directory is incomplete");
    }
    if (entry.comp_method != ZIP_CM_STORE || entry.encryption_method != ZIP_EM_NONE) {
      return unsupported(
          "its zip entries are compressed or encrypted, which torch.save never "
          "does; load it with torch and save it again");
    }
    if (entry.size > file_size - total) {
      return corrupt_file("its zip entries claim more bytes than the file has");
    }
    total += entry.size;
    reader.names_.emplace_back(entry.name);
  }
  return reader;
}

Result<size_t> ZipReader::size_of(const std::string& name) const {
  zip_stat_t entry;
  zip_stat_init(&entry);
  if (zip_stat(archive_.get(), name.c_str(), 0, &entry) != 0) {
    return corrupt_file("its zip archive lacks the entry " + name);
  }
  return size_t{entry.size};
}

Result<std::vector<std::byte>> ZipReader::read(const std::string& name) const {
  const Result<size_t> size = size_of(name);
  if (!size.ok()) return size.error();
  const std::unique_ptr<zip_file_t, Close> file(zip_fopen(archive_.get(), name.c_str(), 0));
  std::vector<std::byte> bytes(*size);
  // One byte past the end makes libzip compare the checksum.
  std::byte past_end;
  if (!file || zip_fread(file.get(), bytes.data(), bytes.size()) != std::ssize(bytes) ||
      zip_fread(file.get(), &past_end, 1) != 0) {
    return damaged(name);
  }
  return bytes;
}

Status ZipReader::skip(size_t num_bytes) {
  std::byte skipped[1 << 14];
  while (num_bytes > 0) {
    const size_t size = std::min(num_bytes, sizeof(skipped));
    if (zip_fread(open_entry_.get(), skipped, size) != static_cast<zip_int64_t>(size)) {
      return damaged(open_name_);
    }
    position_ += size;
    num_bytes -= size;
  }
  return ok_status();
}

Status ZipReader::read_part(const std::string& name, size_t begin, std::span<std::byte> part) {
  const Result<size_t> size = size_of(name);
  if (!size.ok()) return size.error();
  if (begin > *size || part.size() > *size - begin) return damaged(name);
  if (!open_entry_ || open_name_ != name || begin < position_) {
    open_entry_.reset(zip_fopen(archive_.get(), name.c_str(), 0));
    open_name_ = name;
    position_ = 0;
    if (!open_entry_) return damaged(name);
  }
  if (Status skipped = skip(begin - position_); !skipped.ok()) return skipped;
  if (zip_fread(open_entry_.get(), part.data(), part.size()) != std::ssize(part)) {
    return damaged(name);
  }
  position_ += part.size();
  std::byte past_end;
  if (position_ == *size && zip_fread(open_entry_.get(), &past_end, 1) != 0) return damaged(name);
  return ok_status();
}

Result<std::vector<std::byte>> make_zip(std::span<const ZipEntry> entries) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* target = zip_source_buffer_create(nullptr, 0, 0, &error);
  zip_t* archive =
      target ? zip_open_from_source(target, ZIP_CREATE | ZIP_TRUNCATE, &error) : nullptr;
  if (!archive) {
    zip_source_free(target);
    return io_error("cannot make a zip archive: " + message(&error));
  }
  zip_source_keep(target);
  const std::unique_ptr<zip_source_t, decltype(&zip_source_free)> keep(target, zip_source_free);
  bool done = true;
  for (const ZipEntry& entry : entries) {
    zip_source_t* data = zip_source_buffer(archive, entry.bytes.data(), entry.bytes.size(), 0);
    const zip_int64_t idx = zip_file_add(archive, entry.name.c_str(), data, ZIP_FL_ENC_UTF_8);
    if (idx < 0) zip_source_free(data);
    done = done && idx >= 0 && zip_set_file_compression(archive, idx, ZIP_CM_STORE, 0) == 0 &&
           zip_file_set_dostime(archive, idx, 0, kFirstDosDate, 0) == 0;
  }
  if (!done || zip_close(archive) != 0) {
    const std::string reason = zip_strerror(archive);
    zip_discard(archive);
    return io_error("cannot make a zip archive: " + reason);
  }
  zip_stat_t stat;
  zip_stat_init(&stat);
  std::vector<std::byte> bytes;
  if (zip_source_stat(target, &stat) != 0 || zip_source_open(target) != 0) {
    return io_error("cannot read back a zip archive: " + message(zip_source_error(target)));
  }
  bytes.resize(stat.size);
  const bool whole = zip_source_read(target, bytes.data(), bytes.size()) == std::ssize(bytes);
  zip_source_close(target);
  if (!whole) return io_error("cannot read back a zip archive");
  return bytes;
}

}  // namespace plimsoll
