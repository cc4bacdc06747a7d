// Rotary position embedding on the last dimensions of a vector, in interleaved pairs.
//
// Two tables are in use: `main` (rope_theta) in layers that see the sliding window alone, and
// `compress` (compress_rope_theta, stretched by YaRN where the configuration asks) in the others.
// YaRN here scales frequencies only; amplitudes stay 1.
#pragma once

#include <cstdint>
#include <vector>

namespace plimsoll {

struct ModelConfig;

// Radians per position of each pair.
std::vector<float> main_frequencies(const ModelConfig& config);
std::vector<float> compress_frequencies(const ModelConfig& config);

// The cosines, then the sines, of position * frequency: out [2, frequencies].
void rotation_at(const std::vector<float>& frequencies, int64_t position, float* out);

}  // namespace plimsoll
