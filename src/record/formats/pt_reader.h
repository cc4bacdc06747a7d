// PyTorch's .pt files: a zip archive of a pickle and storages, or, before PyTorch 1.6, pickles and
// storages one after the other.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"
#include "record/formats/pickle.h"
#include "record/formats/zip.h"

namespace plimsoll {

struct PtFile {
  PtFile() = default;
  PtFile(PtFile&&) = default;  // a copy's pickle would point into the original
  PtFile& operator=(PtFile&&) = default;

  PtValue root() const { return PtValue(pickle, pickle.root); }
  const PtStorage& storage(const PtTensor& tensor) const {
    return pickle.storages[tensor.storage_idx];
  }

  // Bytes of a storage from `begin` on, read from the file as they are asked for: in ascending
  // order that is quick. Fails on a damaged file.
  Status read(const PtStorage& storage, size_t begin, std::span<std::byte> bytes) const;

  std::vector<std::byte> pickle_bytes;
  Pickle pickle;
  size_t file_size = 0;
  std::unique_ptr<ZipReader> zip;  // none in a legacy file
  std::string folder;              // of all entries
};

// `file` must outlive what is returned.
Result<PtFile> parse_pt(std::span<const std::byte> file);
// Takes little more memory than the pickle. The messages do not name the path.
Result<PtFile> open_pt(const std::string& path);

}  // namespace plimsoll
