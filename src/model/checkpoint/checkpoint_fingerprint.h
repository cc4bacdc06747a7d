// Telling checkpoints apart without reading all of their bytes.
#pragma once

#include <cstdint>
#include <string>

#include "plimsoll/result.h"

namespace plimsoll {

// Of config.json as it is written, and of every safetensors file its size, its head and a block in
// each 256th part. Two checkpoints with the same fingerprint are the same, unless somebody means to
// deceive.
Result<uint64_t> checkpoint_fingerprint(const std::string& model_dir);

}  // namespace plimsoll
