#include "model/forward/compressor.h"

#include <algorithm>

#include "model/forward/rope.h"

namespace plimsoll {

void remember_token(const Compressor& compressor,
                    int64_t position,
                    const float* kv,
                    const float* score,
                    CompressorState& state) {
  const CompressorShape& shape = compressor.shape;
  const int width = shape.kv_dim();
  float* row = state.rows.data() + position % shape.num_rows() * shape.row_dim();
  const float* bias = compressor.weights.position_bias.data() + position % shape.ratio * width;
  std::copy_n(kv, width, row);
  for (int c = 0; c < width; ++c) row[width + c] = score[c] + bias[c];
}

void compute_entry(const Compressor& compressor,
                   int64_t entry_idx,
                   const CompressorState& state,
                   CompressorScratch& scratch,
                   float* out) {
  const CompressorShape& shape = compressor.shape;
  const int64_t current = entry_idx * shape.ratio;  // the first token of the window it closes
  const int64_t first = std::max<int64_t>(current - (shape.overlap - 1) * shape.ratio, 0);
  const int num_rows = static_cast<int>(current + shape.ratio - first);
  scratch.kv.clear();
  scratch.score.clear();
  for (int r = 0; r < num_rows; ++r) {
    const int64_t position = first + r;
    const float* row = state.rows.data() + position % shape.num_rows() * shape.row_dim();
    // Overlapping windows: tokens of the window before lend their first channels, those of this
    // window their last.
    const int channel = position < current ? 0 : (shape.overlap - 1) * shape.dim;
    scratch.kv.push_back(row + channel);
    scratch.score.push_back(row + shape.kv_dim() + channel);
  }
  const Kernels& kernels = compressor.kernels;
  kernels.compress(scratch.kv.data(), scratch.score.data(), num_rows, shape.dim, out);
  float inverse_rms = 0;
  kernels.inverse_rms(out, shape.dim, 1, shape.dim, compressor.norm_eps, &inverse_rms);
  kernels.scale_rows(out, shape.dim, 1, shape.dim, &inverse_rms, compressor.weights.norm.data(),
                     out, shape.dim);
  const int num_pairs = static_cast<int>(compressor.frequencies.size());
  scratch.rotation.resize(2 * compressor.frequencies.size());
  rotation_at(compressor.frequencies, current, scratch.rotation.data());
  kernels.rotate(out + shape.dim - 2 * num_pairs, shape.dim, 1, scratch.rotation.data(), num_pairs,
                 false);
}

}  // namespace plimsoll
