// PyTorch's .pt files: a zip archive of a pickle and storages, or, before PyTorch 1.6, pickles and
// storages one after the other.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"
#include "record/formats/pickle.h"

namespace plimsoll {

struct PtFile {
  PtFile() = default;
  PtFile(PtFile&&) = default;  // a copy's pickle would point into the original
  PtFile& operator=(PtFile&&) = default;

  PtValue root() const { return PtValue(pickle, pickle.root); }
  const PtStorage& storage(const PtTensor& tensor) const {
    return pickle.storages[tensor.storage_idx];
  }

  std::vector<std::byte> pickle_bytes;
  Pickle pickle;
  size_t file_size = 0;
};

Result<PtFile> parse_pt(std::span<const std::byte> file);

}  // namespace plimsoll
