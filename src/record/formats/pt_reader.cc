#include "record/formats/pt_reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string_view>

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

Result<PtFile> parse_zip(std::span<const std::byte> file) {
  const Result<ZipReader> zip = ZipReader::open(file);
  if (!zip.ok()) return zip.error();
  const auto has = [&](const std::string& name) {
    return std::ranges::find(zip->names(), name) != zip->names().end();
  };
  // All entries lie in one folder, named after the file.
  const std::string first = zip->names().empty() ? "" : zip->names().front();
  const std::string folder = first.substr(0, first.find('/'));
  if (has(folder + "/byteorder")) {
    const auto order = zip->read(folder + "/byteorder");
    if (!order.ok()) return order.error();
    if (!starts_with(*order, "little")) return unsupported("it was saved on a big-endian machine");
  }
  auto pickle_bytes = zip->read(folder + "/data.pkl");
  if (!pickle_bytes.ok()) return pickle_bytes.error();
  Result<Pickle> pickle = decode_pickle(*pickle_bytes);
  if (!pickle.ok()) return pickle.error();

  PtFile pt;
  pt.pickle_bytes = std::move(*pickle_bytes);
  pt.pickle = std::move(*pickle);
  for (PtStorage& storage : pt.pickle.storages) {
    auto bytes = zip->read(folder + "/data/" + storage.key);
    if (!bytes.ok()) return bytes.error();
    if (storage_bytes(storage, bytes->size()) < 0) return too_short(storage, bytes->size());
    storage.bytes = std::move(*bytes);
  }
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

}  // namespace

Result<PtFile> parse_pt(std::span<const std::byte> file) {
  const bool legacy = starts_with(file, kLegacyMagic);
  if (!legacy && !starts_with(file, "PK\x03\x04")) {
    return corrupt_file(
        "it is no .pt file: it starts neither as a zip archive nor as a pickle of "
        "torch.save");
  }
  Result<PtFile> pt = legacy ? parse_legacy(file) : parse_zip(file);
  if (pt.ok()) pt->file_size = file.size();
  return pt;
}

}  // namespace plimsoll
