#include "model/forward/attention_tile.h"

#include <algorithm>
#include <cmath>

namespace plimsoll {
namespace {

// What a lane may see, and its sink; lanes past the last row see nothing.
struct Lanes {
  float window_first[kPanelLanes] = {};
  float window_last[kPanelLanes] = {};
  float entries_first[kPanelLanes] = {};
  float entries_last[kPanelLanes] = {};
  float sink[kPanelLanes] = {};
};

Lanes describe_lanes(const LayerShape& shape,
                     std::span<const float> sink,
                     const AttentionTile& tile,
                     int first_lane_row,
                     int num_lanes) {
  const int num_heads = static_cast<int>(sink.size());
  Lanes lanes;
  for (int l = 0; l < num_lanes; ++l) {
    const int64_t position = tile.position + (first_lane_row + l) / num_heads;
    const int64_t first = std::max(position - shape.window + 1, tile.padding);
    lanes.window_first[l] = static_cast<float>(first - tile.window_start);
    lanes.window_last[l] = static_cast<float>(position + 1 - tile.window_start);
    if (shape.has_compressor) {
      const int visible = tile.selected ? tile.entries.num_keys
                                        : visible_entries(shape.compressor, position, tile.origin);
      lanes.entries_last[l] = static_cast<float>(visible);
    }
    lanes.sink[l] = sink[static_cast<size_t>((first_lane_row + l) % num_heads)];
  }
  return lanes;
}

// The scaled queries with rows as lanes: panel [dim, kPanelLanes], lanes past the last row zero.
void transpose_queries(const float* rows, int num_rows, int dim, float scale, float* panel) {
  for (int d = 0; d < dim; ++d) {
    float* lanes = panel + d * kPanelLanes;
    for (int r = 0; r < num_rows; ++r) lanes[r] = rows[r * dim + d] * scale;
    std::fill(lanes + num_rows, lanes + kPanelLanes, 0.0f);
  }
}

// logits[key][lane] = key . query
void multiply_keys(const Kernels& kernels,
                   const LayerShape& shape,
                   const KeyRun& run,
                   const float* query_panel,
                   int num_lanes,
                   float* logits) {
  GemmArgs args;
  args.x = run.keys;
  args.x_row_stride = shape.row_stride;
  args.num_rows = run.num_keys;
  args.w.f32 = query_panel;
  args.w.num_outputs = round_up(num_lanes, kRowAlignment);
  args.w.num_inputs = shape.head_dim;
  args.y = logits;
  args.y_row_stride = kPanelLanes;
  kernels.gemm(args);
}

// out[row][dim] (+)= sum over keys of probability[key][row] * key[dim]
void add_values(const Kernels& kernels,
                const LayerShape& shape,
                const KeyRun& run,
                const float* probabilities,
                int num_rows,
                bool accumulate,
                float* out) {
  GemmArgs args;
  args.x = probabilities;
  args.x_row_stride = 1;
  args.x_k_stride = kPanelLanes;
  args.num_rows = num_rows;
  args.w.f32 = run.keys;
  args.w.panel_stride = kPanelLanes;
  args.w.k_stride = shape.row_stride;
  args.w.num_outputs = shape.head_dim;
  args.w.num_inputs = run.num_keys;
  args.y = out;
  args.y_row_stride = shape.head_dim;
  args.accumulate = accumulate;
  kernels.gemm(args);
}

void attend_lanes(ForwardWorkspace& workspace,
                  const LayerShape& shape,
                  const Lanes& lanes,
                  const AttentionTile& tile,
                  ptrdiff_t first_row,
                  int num_lanes) {
  const Kernels& kernels = workspace.kernels;
  AttentionBuffers& buffers = workspace.attention;
  const int dim = shape.head_dim;
  const std::array<KeyRun, 4> runs = {tile.window[0], tile.window[1], tile.window[2], tile.entries};
  int num_keys = 0;
  for (const KeyRun& run : runs) num_keys += run.num_keys;

  float* panel = buffers.query_panel.at_least(dim, kPanelLanes);
  transpose_queries(buffers.query.data() + first_row * dim, num_lanes, dim,
                    1.0f / std::sqrt(static_cast<float>(dim)), panel);
  float* logits = buffers.logits.at_least(num_keys, kPanelLanes);
  std::array<float*, 4> run_logits;
  std::array<SoftmaxArgs::Run, 4> seen;
  float* next = logits;
  float offset = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    run_logits[i] = next;
    multiply_keys(kernels, shape, runs[i], panel, num_lanes, next);
    next += ptrdiff_t{runs[i].num_keys} * kPanelLanes;
    const bool window = i < tile.window.size();
    seen[i] = {runs[i].num_keys, window ? offset : 0,
               window ? lanes.window_first : lanes.entries_first,
               window ? lanes.window_last : lanes.entries_last};
    offset += static_cast<float>(runs[i].num_keys);
  }
  float scale[kPanelLanes];
  kernels.softmax({logits, seen, num_lanes, lanes.sink, scale});

  float* out = buffers.output.data() + first_row * dim;
  bool accumulate = false;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].num_keys == 0) continue;
    add_values(kernels, shape, runs[i], run_logits[i], num_lanes, accumulate, out);
    accumulate = true;
  }
  kernels.scale_rows(out, dim, num_lanes, dim, scale, nullptr, out, dim);
}

}  // namespace

int queries_per_tile(int num_heads) {
  return std::max(kPanelLanes / num_heads, 1);
}

void attend_tile(ForwardWorkspace& workspace,
                 const LayerShape& shape,
                 std::span<const float> sink,
                 const AttentionTile& tile) {
  const int num_heads = static_cast<int>(sink.size());
  const int num_rows = tile.num_queries * num_heads;
  for (int row = 0; row < num_rows; row += kPanelLanes) {
    const int num_lanes = std::min(num_rows - row, kPanelLanes);
    const Lanes lanes = describe_lanes(shape, sink, tile, row, num_lanes);
    attend_lanes(workspace, shape, lanes, tile, ptrdiff_t{tile.first_row} * num_heads + row,
                 num_lanes);
  }
}

}  // namespace plimsoll
