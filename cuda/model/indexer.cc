#include "cuda/model/indexer.h"

#include <cstring>
#include <limits>

#include "cuda/device/for_each.h"

namespace plimsoll::gpu {
namespace {

struct ScoreEntry {
  IndexerArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int64_t row = args.first_row + i / args.most_entries;
    const int entry = static_cast<int>(i % args.most_entries);
    const int segment_idx = args.step.segment_of[row];
    const SegmentView& segment = args.step.segments[segment_idx];
    const LayerShape& shape = args.place.shape;
    const int64_t position = position_of(segment, row);
    if (!must_select(shape, segment, position, args.top_k)) return;
    if (entry >= visible_entries(shape.indexer, position, segment.origin)) return;
    const int dim = shape.indexer.dim;
    const float* key =
        entry_at(args.step, args.place.layer_idx, EntryKind::kIndexerKey, segment_idx, entry, dim);
    float score = 0;
    for (int h = 0; h < args.num_heads; ++h) {
      const float* query = args.query + (row * args.num_heads + h) * dim;
      float dot = 0;
      for (int d = 0; d < dim; ++d) dot = multiply_add(query[d], key[d], dot);
      score = multiply_add(args.weights[row * args.num_heads + h], fmaxf(dot, 0.0f), score);
    }
    args.scores[i] = score;
  }
};

// Orders as the floats do, as unsigned integers.
PLIMSOLL_HD uint32_t sortable(float score) {
  uint32_t bits;
  memcpy(&bits, &score, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

PLIMSOLL_HD void sort_ascending(int32_t* values, int count) {
  for (int i = 1; i < count; ++i) {
    const int32_t value = values[i];
    int hole = i;
    for (; hole > 0 && values[hole - 1] > value; --hole) values[hole] = values[hole - 1];
    values[hole] = value;
  }
}

struct SelectRow {
  IndexerArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int64_t row = args.first_row + i;
    const SegmentView& segment = args.step.segments[args.step.segment_of[row]];
    const LayerShape& shape = args.place.shape;
    const int64_t position = position_of(segment, row);
    if (!must_select(shape, segment, position, args.top_k)) return;
    const int visible = visible_entries(shape.indexer, position, segment.origin);
    const float* scores = args.scores + i * args.most_entries;
    int32_t* selected = args.selected + row * args.top_k;
    // The largest threshold that at least k scores reach, found bit by bit.
    uint32_t threshold = 0;
    int reached_by = visible;
    for (uint32_t bit = 0x80000000u; bit != 0 && reached_by != args.top_k; bit >>= 1) {
      int reached = 0;
      for (int e = 0; e < visible; ++e) reached += sortable(scores[e]) >= (threshold | bit);
      if (reached < args.top_k) continue;
      threshold |= bit;
      reached_by = reached;
    }
    if (reached_by == args.top_k) {
      for (int e = 0; e < visible; ++e) {
        if (sortable(scores[e]) >= threshold) *selected++ = e;
      }
      return;
    }
    const int64_t end = position + 1 > segment.prompt_tokens ? position + 1 : segment.prompt_tokens;
    const auto length = static_cast<size_t>(end / shape.indexer.ratio);
    ScoredEntry* scored = args.scored + i * args.most_entries;
    for (size_t e = 0; e < length; ++e) {
      const auto idx = static_cast<int>(e);
      scored[e] = {idx < visible ? scores[e] : -std::numeric_limits<float>::infinity(), idx};
    }
    select_best({scored, length}, args.top_k);
    for (int k = 0; k < args.top_k; ++k) selected[k] = scored[k].index;
    sort_ascending(selected, args.top_k);
  }
};

}  // namespace

void select_entries(Queue& queue, const IndexerArgs& args) {
  for_each(queue, int64_t{args.num_rows} * args.most_entries, ScoreEntry{args});
  for_each(queue, args.num_rows, SelectRow{args});
}

}  // namespace plimsoll::gpu
