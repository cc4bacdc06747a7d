#include "model/checkpoint/layer_shape.h"

#include "model/checkpoint/config.h"
#include "model/kernels/kernels.h"

namespace plimsoll {

LayerShape layer_shape(const ModelConfig& config, int layer_idx) {
  constexpr int kSparseRatio = 4;  // compressed sparse attention: overlapping windows, an indexer
  LayerShape shape;
  shape.window = config.sliding_window;
  shape.head_dim = config.head_dim;
  shape.row_stride = round_up(config.head_dim, kRowAlignment);
  const int ratio = config.compress_ratios[static_cast<size_t>(layer_idx)];
  if (ratio == 0) return shape;
  shape.has_compressor = true;
  shape.has_indexer = ratio == kSparseRatio;
  const int overlap = shape.has_indexer ? 2 : 1;
  shape.compressor = {ratio, overlap, config.head_dim};
  if (shape.has_indexer) shape.indexer = {ratio, overlap, config.index_head_dim};
  return shape;
}

}  // namespace plimsoll
