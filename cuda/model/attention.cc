#include "cuda/model/attention.h"

#include "cuda/device/for_each.h"
#include "cuda/model/indexer.h"

namespace plimsoll::gpu {
namespace {

// What a query sees: keys of the window, oldest first, then entries.
struct KeySet {
  int segment_idx;
  int64_t first;  // position of the window's first key
  int num_window;
  int num_entries;
  const int32_t* selected;  // null: the first entries

  PLIMSOLL_HD int count() const { return num_window + num_entries; }
};

PLIMSOLL_HD KeySet keys_of(const AttentionArgs& args, int64_t row) {
  const LayerShape& shape = args.place.shape;
  KeySet keys{};
  keys.segment_idx = args.step.segment_of[row];
  const SegmentView& segment = args.step.segments[keys.segment_idx];
  const int64_t position = position_of(segment, row);
  const int64_t oldest = position - shape.window + 1;
  keys.first = oldest > segment.padding ? oldest : segment.padding;
  if (keys.first < 0) keys.first = 0;
  keys.num_window = keys.first <= position ? static_cast<int>(position + 1 - keys.first) : 0;
  if (!shape.has_compressor) return keys;
  keys.num_entries = visible_entries(shape.compressor, position, segment.origin);
  if (must_select(shape, segment, position, args.top_k)) {
    keys.num_entries = args.top_k;
    keys.selected = args.selected + row * args.top_k;
  }
  return keys;
}

PLIMSOLL_HD const float* key_at(const AttentionArgs& args, const KeySet& keys, int j) {
  const SegmentView& segment = args.step.segments[keys.segment_idx];
  const LayerShape& shape = args.place.shape;
  const int stride = shape.row_stride;
  if (j >= keys.num_window) {
    const int idx = j - keys.num_window;
    return entry_at(args.step, args.place.layer_idx, EntryKind::kCompressed, keys.segment_idx,
                    keys.selected != nullptr ? keys.selected[idx] : idx, stride);
  }
  const int64_t position = keys.first + j;
  if (position >= segment.start) {
    return args.kv + (segment.first_row + position - segment.start) * stride;
  }
  return segment.rings + args.place.window + position % shape.window * stride;
}

struct MultiplyKey {
  AttentionArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int64_t row = args.first_row + i / args.most_keys / args.num_heads;
    const int head = static_cast<int>(i / args.most_keys % args.num_heads);
    const int j = static_cast<int>(i % args.most_keys);
    const KeySet keys = keys_of(args, row);
    if (j >= keys.count()) return;
    const int dim = args.place.shape.head_dim;
    const float* query = args.query + (row * args.num_heads + head) * dim;
    const float* key = key_at(args, keys, j);
    float dot = 0;
    for (int d = 0; d < dim; ++d) dot = multiply_add(query[d], key[d], dot);
    args.logits[i] = dot * (1.0f / sqrtf(static_cast<float>(dim)));
  }
};

// With a sink, which takes part in the denominator alone.
struct Softmax {
  AttentionArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int count = keys_of(args, args.first_row + i / args.num_heads).count();
    const float sink = args.sink[i % args.num_heads];
    float* logits = args.logits + i * args.most_keys;
    float maximum = sink;
    for (int j = 0; j < count; ++j) maximum = fmaxf(maximum, logits[j]);
    float sum = 0;
    for (int j = 0; j < count; ++j) sum += logits[j] = expf(logits[j] - maximum);
    args.scale[i] = 1.0f / (sum + expf(sink - maximum));
  }
};

struct AddValues {
  AttentionArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int dim = args.place.shape.head_dim;
    const int64_t lane = i / dim;
    const KeySet keys = keys_of(args, args.first_row + lane / args.num_heads);
    const float* weights = args.logits + lane * args.most_keys;
    const int d = static_cast<int>(i % dim);
    float sum = 0;
    for (int j = 0; j < keys.count(); ++j) {
      sum = multiply_add(weights[j], key_at(args, keys, j)[d], sum);
    }
    args.output[int64_t{args.first_row} * args.num_heads * dim + i] = sum * args.scale[lane];
  }
};

}  // namespace

void attend(Queue& queue, const AttentionArgs& args) {
  const int64_t lanes = int64_t{args.num_rows} * args.num_heads;
  for_each(queue, lanes * args.most_keys, MultiplyKey{args});
  for_each(queue, lanes, Softmax{args});
  for_each(queue, lanes * args.place.shape.head_dim, AddValues{args});
}

}  // namespace plimsoll::gpu
