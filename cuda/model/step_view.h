// What kernels see of a step: its tokens, and the states of the sequences that they belong to.
//
// A sequence's state is one block of rings, of fixed size, and pages of compressed entries, which
// come as it grows. A page belongs to one layer of one sequence and holds whole entries.
#pragma once

#include <cstdint>

#include "cuda/device/host_device.h"
#include "model/checkpoint/layer_shape.h"

namespace plimsoll::gpu {

// Where a layer's part lies in a sequence's state: floats from the start of its rings. Rings are
// as the CPU's (model/forward/sequence_state.h): token p in slot p mod its length.
struct LayerPlace {
  int layer_idx = 0;
  LayerShape shape;
  int64_t window = 0;           // [shape.window, shape.row_stride]
  int64_t compressor_rows = 0;  // [num_rows, row_dim]
  int64_t indexer_rows = 0;
};

enum class EntryKind { kCompressed, kIndexerKey };

// Tokens of one sequence, which are consecutive rows of the step.
struct SegmentView {
  int32_t first_row = 0;
  int32_t num_tokens = 0;
  int64_t start = 0;  // position of the first token
  int64_t prompt_tokens = 0;
  int64_t padding = 0;  // leading tokens that no query sees
  int64_t origin = 0;   // the token at position 0
  float* rings = nullptr;
};

struct StepView {
  int num_tokens = 0;
  int num_layers = 0;
  int page_floats = 0;
  const int32_t* tokens = nullptr;      // [num_tokens]
  const int32_t* segment_of = nullptr;  // [num_tokens]
  const SegmentView* segments = nullptr;
  float* const* pages = nullptr;
  const int32_t* page_begin = nullptr;   // [segments, layers, 2]: of the kind's first page
  const float* main_rotation = nullptr;  // [num_tokens, 2, pairs]
  const float* compress_rotation = nullptr;
};

// Entries that the step closes in layers of one ratio, and the angles of their positions.
struct Closing {
  int32_t segment = 0;
  int32_t entry_idx = 0;
};
struct ClosingList {
  int ratio = 0;
  int count = 0;
  const Closing* closings = nullptr;
  const float* rotation = nullptr;  // [count, 2, pairs]
};

PLIMSOLL_HD inline float* entry_at(
    const StepView& step, int layer_idx, EntryKind kind, int segment, int64_t idx, int width) {
  const int64_t list = (int64_t{segment} * step.num_layers + layer_idx) * 2 +
                       (kind == EntryKind::kIndexerKey ? 1 : 0);
  const int per_page = step.page_floats / width;
  return step.pages[step.page_begin[list] + idx / per_page] + idx % per_page * width;
}

PLIMSOLL_HD inline int64_t position_of(const SegmentView& segment, int64_t row) {
  return segment.start + row - segment.first_row;
}

}  // namespace plimsoll::gpu
