// A whole text file, or pipe (`--config <(...)`, `--prompt-file /dev/stdin`).
#pragma once

#include <string>

#include "plimsoll/result.h"

namespace plimsoll {

Result<std::string> read_text(const std::string& path);

}  // namespace plimsoll
