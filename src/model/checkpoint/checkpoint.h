// A DeepSeek-V4 checkpoint: config.json and tensors, decoded from whatever form they are stored in.
//
// Stored forms: F32; BF16; F8_E4M3 with a `.scale` per 128 x 128 block (F8_E8M0 or F32, ragged at
// the edges); I8 holding two FP4 (e2m1) values a byte, the first in the low half, with an F8_E8M0
// `.scale` per 32 inputs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint/config.h"
#include "model/checkpoint/safetensors.h"
#include "plimsoll/result.h"

namespace plimsoll {

// NAME.scale for NAME.weight.
std::string scale_name(const std::string& name);

class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& model_dir);

  const ModelConfig& config() const { return config_; }
  const Safetensors& tensors() const { return tensors_; }

  // The tensor as it is stored, of the decoded shape given. Fails if it is missing or has another
  // shape or form; reads no values.
  struct Stored {
    const TensorView* values = nullptr;
    const TensorView* scales = nullptr;  // of quantised tensors
  };
  Result<Stored> locate(const std::string& name, std::span<const int64_t> shape) const;

  // Fails where load would for want of the tensor or its scales, or for their form; reads no
  // values.
  Status check(const std::string& name, std::span<const int64_t> shape) const;

  // The tensor as float32, row-major. Fails if it is missing, has another shape, or holds values
  // that are not finite; the message names it and says what was expected.
  Result<std::vector<float>> load(const std::string& name, std::span<const int64_t> shape) const;

  // An I64 (or I32) tensor whose values must lie in [0, limit).
  Result<std::vector<int32_t>> load_ids(const std::string& name,
                                        std::span<const int64_t> shape,
                                        int64_t limit) const;

 private:
  Result<const TensorView*> find(const std::string& name, std::span<const int64_t> shape) const;

  ModelConfig config_;
  Safetensors tensors_;
};

}  // namespace plimsoll
