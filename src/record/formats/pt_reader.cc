#include "record/formats/pt_reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string_view>

#include "record/formats/file_io.h"
#include "record/formats/zip.h"

namespace plimsoll {
namespace {

bool starts_with(std::span<const std::byte> file, std::string_view bytes) {
  return file.size() >= bytes.size() && std::memcmp(file.data(), bytes.data(), bytes.size()) == 0;
}

// The file's number of bytes where that many elements have room, else -1.
int64_t storage_bytes(const PtStorage& storage, size_t available) {
  const int64_t width = dtype_bytes(storage.dtype);
  const bool fits = storage.num_elements <= static_cast<int64_t>(available) / width;
  return fits ? storage.num_elements * width : -1;
}

Error too_short(const PtStorage& storage, size_t available) {
  return corrupt_file("its storage " + printable(storage.key) + " claims " +
                      std::to_string(storage.num_elements) + " elements of " +
                      std::string(dtype_name(storage.dtype)) + ", but " +
                      std::to_string(available) + " bytes are there");
}

Result<PtFile> parse_zip(ZipReader zip) {
  const auto has = [&](const std::string& name) {
    return std::ranges::find(zip.names(), name) != zip.names().end();
  };
  // All entries lie in one folder, named after the file.
  const std::string first = zip.names().empty() ? "" : zip.names().front();
  PtFile pt;
  pt.folder = first.substr(0, first.find('/'));
  pt.file_size = zip.file_size();
  if (has(pt.folder + "/byteorder")) {
    const auto order = zip.read(pt.folder + "/byteorder");
    if (!order.ok()) return order.error();
    if (!starts_with(*order, "little")) return unsupported("it was saved on a big-endian machine");
  }
  auto pickle_bytes = zip.read(pt.folder + "/data.pkl");
  if (!pickle_bytes.ok()) return pickle_bytes.error();
  Result<Pickle> pickle = decode_pickle(*pickle_bytes);
  if (!pickle.ok()) return pickle.error();
  pt.pickle_bytes = std::move(*pickle_bytes);
  pt.pickle = std::move(*pickle);
  for (const PtStorage& storage : pt.pickle.storages) {
    const Result<size_t> size = zip.size_of(pt.folder + "/data/" + storage.key);
    if (!size.ok()) return size.error();
    if (storage_bytes(storage, *size) < 0) return too_short(storage, *size);
  }
  pt.zip = std::make_unique<ZipReader>(std::move(zip));
  return pt;
}

// A pickled magic number, 0x1950a86a20f9469cfc6c.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                        15);

// Magic number, format version, system, the object, its storages' keys in order: a pickle each.
// Then every storage: its number of elements in 8 bytes, and the elements.
Result<PtFile> parse_legacy(std::span<const std::byte> file) {
  size_t position = kLegacyMagic.size();
  const auto next_pickle = [&] {
    Result<Pickle> pickle = decode_pickle(file.subspan(position));
    if (pickle.ok()) position += pickle->bytes.size();
    return pickle;
  };
  const Result<Pickle> version = next_pickle();
  if (!version.ok()) return version.error();
  const Result<Pickle> system = next_pickle();
  if (!system.ok()) return system.error();
  const size_t object_begin = position;
  Result<Pickle> object = next_pickle();
  if (!object.ok()) return object.error();
  const size_t object_size = object->bytes.size();
  const Result<Pickle> keys = next_pickle();
  if (!keys.ok()) return keys.error();

  PtFile pt;
  pt.pickle = std::move(*object);
  const PtValue key_list(*keys, keys->root);
  if (key_list.list_size() != pt.pickle.storages.size()) {
    return corrupt_file("it lists " + std::to_string(key_list.list_size()) +
                        " storages, but uses " + std::to_string(pt.pickle.storages.size()));
  }
  std::map<std::string_view, PtStorage*> unread;
  for (PtStorage& storage : pt.pickle.storages) unread[storage.key] = &storage;
  for (size_t i = 0; i < key_list.list_size(); ++i) {
    const auto found = unread.find(key_list.item(i).as_string().value_or(""));
    if (found == unread.end()) return corrupt_file("it lists a storage it never uses");
    PtStorage& storage = *found->second;
    unread.erase(found);
    constexpr size_t kLengthBytes = 8;
    const auto rest = file.subspan(std::min(position + kLengthBytes, file.size()));
    const int64_t size = storage_bytes(storage, rest.size());
    if (size < 0) return too_short(storage, rest.size());
    storage.bytes.assign(rest.begin(), rest.begin() + size);
    position += kLengthBytes + size;
  }
  pt.pickle_bytes.assign(file.begin() + static_cast<ptrdiff_t>(object_begin),
                         file.begin() + static_cast<ptrdiff_t>(object_begin + object_size));
  pt.pickle.bytes = pt.pickle_bytes;
  return pt;
}

constexpr std::string_view kZipMagic = "PK\x03\x04";

Error no_pt_file() {
  return corrupt_file(
      "it is no .pt file: it starts neither as a zip archive nor as a pickle of torch.save");
}

}  // namespace

Result<PtFile> parse_pt(std::span<const std::byte> file) {
  if (starts_with(file, kLegacyMagic)) {
    Result<PtFile> pt = parse_legacy(file);
    if (pt.ok()) pt->file_size = file.size();
    return pt;
  }
  if (!starts_with(file, kZipMagic)) return no_pt_file();
  Result<ZipReader> zip = ZipReader::open(file);
  return zip.ok() ? parse_zip(std::move(*zip)) : zip.error();
}

Result<PtFile> open_pt(const std::string& path) {
  const auto start = read_start(path, kLegacyMagic.size());
  if (!start.ok()) return start.error();
  if (starts_with(*start, kLegacyMagic)) {
    const auto bytes = read_file(path);
    return bytes.ok() ? parse_pt(*bytes) : bytes.error();  // keeps nothing of a legacy file's bytes
  }
  if (!starts_with(*start, kZipMagic)) return no_pt_file();
  Result<ZipReader> zip = ZipReader::open_file(path);
  return zip.ok() ? parse_zip(std::move(*zip)) : zip.error();
}

Status PtFile::read(const PtStorage& storage, size_t begin, std::span<std::byte> bytes) const {
  if (zip) return zip->read_part(folder + "/data/" + storage.key, begin, bytes);
  std::copy_n(storage.bytes.begin() + static_cast<ptrdiff_t>(begin), bytes.size(), bytes.begin());
  return ok_status();
}

}  // namespace plimsoll
