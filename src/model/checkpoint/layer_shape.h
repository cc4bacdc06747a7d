// The sizes of one layer's attention and of the state it keeps.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plimsoll {

struct ModelConfig;

// A compressor closes one entry every `ratio` tokens, from the last `overlap` windows of as many.
struct CompressorShape {
  int ratio = 0;
  int overlap = 1;
  int dim = 0;

  constexpr int kv_dim() const { return overlap * dim; }  // raw values of a token; as many scores
  constexpr int row_dim() const { return 2 * kv_dim(); }  // both, as the state keeps them
  constexpr int num_rows() const { return overlap * ratio; }  // tokens the state remembers
};

// Entries that the token at `position` may see: those closed by then, the one it closes included.
constexpr int visible_entries(const CompressorShape& shape, int64_t position, int64_t origin) {
  return static_cast<int>(std::max<int64_t>(position + 1 - origin, 0) / shape.ratio);
}

struct LayerShape {
  int window = 0;  // tokens attention sees uncompressed, its own included
  int head_dim = 0;
  int row_stride = 0;  // floats from one key to the next: head_dim, zero-filled to the alignment
  bool has_compressor = false;
  bool has_indexer = false;
  CompressorShape compressor;
  CompressorShape indexer;
};

LayerShape layer_shape(const ModelConfig& config, int layer_idx);

}  // namespace plimsoll
