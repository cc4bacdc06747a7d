// Whole files, in and out.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

Result<std::vector<std::byte>> read_file(const std::string& path);
// The first bytes, or fewer where the file is shorter.
Result<std::vector<std::byte>> read_start(const std::string& path, size_t num_bytes);

// Writes a file beside `path` and renames it, so that a reader never sees half of it.
Status write_file(const std::string& path, std::span<const std::byte> bytes);

}  // namespace plimsoll
