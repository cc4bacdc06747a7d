#include "cuda/model/compressor.h"

#include "cuda/device/for_each.h"
#include "cuda/model/rows.h"

namespace plimsoll::gpu {
namespace {

PLIMSOLL_HD const CompressorShape& shape_of(const CompressArgs& args) {
  const LayerShape& shape = args.place.shape;
  return args.kind == EntryKind::kCompressed ? shape.compressor : shape.indexer;
}

PLIMSOLL_HD float* ring_of(const CompressArgs& args, const SegmentView& segment) {
  return segment.rings + (args.kind == EntryKind::kCompressed ? args.place.compressor_rows
                                                              : args.place.indexer_rows);
}

struct KvScore {
  float kv, score;
};

// A channel of the token at `position`: among the step's own, or remembered.
PLIMSOLL_HD KvScore read_token(const CompressArgs& args,
                               const SegmentView& segment,
                               int64_t position,
                               int channel) {
  const CompressorShape& shape = shape_of(args);
  const int width = shape.kv_dim();
  if (position >= segment.start) {
    const int64_t at = (segment.first_row + position - segment.start) * width + channel;
    return {args.kv[at], args.score[at] + args.bias[position % shape.ratio * width + channel]};
  }
  const float* row = ring_of(args, segment) + position % shape.num_rows() * shape.row_dim();
  return {row[channel], row[width + channel]};
}

// A channel of an entry: the softmax over its rows' scores of their values.
struct CompressChannel {
  CompressArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const CompressorShape& shape = shape_of(args);
    const Closing closing = args.closings.closings[i / shape.dim];
    const SegmentView& segment = args.step.segments[closing.segment];
    const int channel = static_cast<int>(i % shape.dim);
    const int64_t current = int64_t{closing.entry_idx} * shape.ratio;
    const int64_t before = current - (shape.overlap - 1) * shape.ratio;
    const int64_t first = before > 0 ? before : 0;
    const int64_t end = current + shape.ratio;
    // Overlapping windows: tokens of the window before lend their first channels, those of this
    // window their last.
    const int shift = (shape.overlap - 1) * shape.dim;
    const auto read = [&](int64_t position) {
      return read_token(args, segment, position, channel + (position < current ? 0 : shift));
    };
    float maximum = read(first).score;
    for (int64_t p = first + 1; p < end; ++p) maximum = fmaxf(maximum, read(p).score);
    float sum = 0;
    float value = 0;
    for (int64_t p = first; p < end; ++p) {
      const KvScore token = read(p);
      const float weight = expf(token.score - maximum);
      sum += weight;
      value = multiply_add(weight, token.kv, value);
    }
    args.entries[i] = value / sum;
  }
};

struct FileEntry {
  CompressArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int dim = shape_of(args).dim;
    const int stride = args.kind == EntryKind::kCompressed ? args.place.shape.row_stride : dim;
    const Closing closing = args.closings.closings[i / dim];
    entry_at(args.step, args.place.layer_idx, args.kind, closing.segment, closing.entry_idx,
             stride)[i % dim] = args.entries[i];
  }
};

struct RememberToken {
  CompressArgs args;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const CompressorShape& shape = shape_of(args);
    const int width = shape.kv_dim();
    const int64_t row = i / width;
    const int channel = static_cast<int>(i % width);
    const SegmentView& segment = args.step.segments[args.step.segment_of[row]];
    const int64_t position = position_of(segment, row);
    if (position + shape.num_rows() < segment.start + segment.num_tokens) return;
    const KvScore token = read_token(args, segment, position, channel);
    float* slot = ring_of(args, segment) + position % shape.num_rows() * shape.row_dim();
    slot[channel] = token.kv;
    slot[width + channel] = token.score;
  }
};

struct RememberKey {
  StepView step;
  LayerPlace place;
  const float* kv;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int stride = place.shape.row_stride;
    const int64_t row = i / stride;
    const SegmentView& segment = step.segments[step.segment_of[row]];
    const int64_t position = position_of(segment, row);
    if (position + place.shape.window < segment.start + segment.num_tokens) return;
    if (i % stride >= place.shape.head_dim) return;
    segment.rings[place.window + position % place.shape.window * stride + i % stride] = kv[i];
  }
};

}  // namespace

void compress(Queue& queue, const CompressArgs& args) {
  const CompressorShape& shape = shape_of(args);
  const int count = args.closings.count;
  for_each(queue, int64_t{count} * shape.dim, CompressChannel{args});
  norm_rows(queue, args.entries, shape.dim, count, shape.dim, args.norm_eps, args.norm);
  rotate_rows(queue, args.entries, shape.dim, count, 1, shape.dim, args.closings.rotation,
              args.rotated, false);
  for_each(queue, int64_t{count} * shape.dim, FileEntry{args});
  for_each(queue, int64_t{args.step.num_tokens} * shape.kv_dim(), RememberToken{args});
}

void remember_keys(Queue& queue, const StepView& step, const LayerPlace& place, const float* kv) {
  for_each(queue, int64_t{step.num_tokens} * place.shape.row_stride, RememberKey{step, place, kv});
}

}  // namespace plimsoll::gpu
