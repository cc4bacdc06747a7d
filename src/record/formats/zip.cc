#include "record/formats/zip.h"

#include <zip.h>

namespace plimsoll {
namespace {

constexpr uint16_t kFirstDosDate = 0x21;  // 1 January 1980

std::string message(zip_error_t* error) {
  std::string text = zip_error_strerror(error);
  zip_error_fini(error);
  return text;
}

struct CloseEntry {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

}  // namespace

void ZipReader::Close::operator()(zip* archive) const {
  zip_discard(archive);
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
  ZipReader reader;
  reader.archive_.reset(archive);
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
    if (entry.size > bytes.size() - total) {
      return corrupt_file("its zip entries claim more bytes than the file has");
    }
    total += entry.size;
    reader.names_.emplace_back(entry.name);
  }
  return reader;
}

Result<std::vector<std::byte>> ZipReader::read(const std::string& name) const {
  zip_stat_t entry;
  zip_stat_init(&entry);
  if (zip_stat(archive_.get(), name.c_str(), 0, &entry) != 0) {
    return corrupt_file("its zip archive lacks the entry " + name);
  }
  const std::unique_ptr<zip_file_t, CloseEntry> file(
      zip_fopen_index(archive_.get(), entry.index, 0));
  std::vector<std::byte> bytes(entry.size);
  // One byte past the end makes libzip compare the checksum.
  std::byte past_end;
  if (!file || zip_fread(file.get(), bytes.data(), bytes.size()) != std::ssize(bytes) ||
      zip_fread(file.get(), &past_end, 1) != 0) {
    return corrupt_file("its zip entry " + name + " is damaged");
  }
  return bytes;
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
