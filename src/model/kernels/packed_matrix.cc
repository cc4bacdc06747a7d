#include "model/kernels/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace plimsoll {
namespace {

bool fits_bf16(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float v) { return (std::bit_cast<uint32_t>(v) & 0xffffu) == 0; });
}

uint16_t to_bf16(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

// Where output n stands in its panel: bfloat16 pairs n with n + 16.
int bf16_lane(int n) {
  return n % 16 * 2 + n % kPanelLanes / 16;
}

}  // namespace

PackedMatrix pack_matrix(std::span<const float> weight, int num_outputs, int num_inputs) {
  PackedMatrix packed;
  packed.num_outputs = num_outputs;
  packed.num_inputs = num_inputs;
  const size_t inputs = static_cast<size_t>(num_inputs);
  const size_t size = static_cast<size_t>(round_up(num_outputs, kPanelLanes)) * inputs;
  const bool narrow = fits_bf16(weight);
  if (narrow) {
    packed.bf16.assign(size, 0);
  } else {
    packed.f32.assign(size, 0.0f);
  }
  for (int n = 0; n < num_outputs; ++n) {
    const float* row = weight.data() + static_cast<size_t>(n) * inputs;
    const size_t panel = static_cast<size_t>(n / kPanelLanes) * inputs * kPanelLanes;
    const size_t lane = static_cast<size_t>(narrow ? bf16_lane(n) : n % kPanelLanes);
    for (size_t k = 0; k < inputs; ++k) {
      const size_t at = panel + k * kPanelLanes + lane;
      if (narrow) {
        packed.bf16[at] = to_bf16(row[k]);
      } else {
        packed.f32[at] = row[k];
      }
    }
  }
  return packed;
}

PackedMatrix pack_interleaved(std::span<const float> first,
                              std::span<const float> second,
                              int num_outputs,
                              int num_inputs) {
  constexpr int kGroup = kPanelLanes / 2;
  const int padded = round_up(num_outputs, kGroup);
  const size_t inputs = static_cast<size_t>(num_inputs);
  std::vector<float> both(2 * static_cast<size_t>(padded) * inputs, 0.0f);
  for (int n = 0; n < num_outputs; ++n) {
    const size_t from = static_cast<size_t>(n) * inputs;
    const size_t to = static_cast<size_t>(n / kGroup * kPanelLanes + n % kGroup) * inputs;
    std::copy_n(first.data() + from, inputs, both.data() + to);
    std::copy_n(second.data() + from, inputs, both.data() + to + kGroup * inputs);
  }
  return pack_matrix(both, 2 * padded, num_inputs);
}

Panels panels(const PackedMatrix& matrix) {
  Panels view;
  view.bf16 = matrix.bf16.empty() ? nullptr : matrix.bf16.data();
  view.f32 = matrix.f32.empty() ? nullptr : matrix.f32.data();
  view.panel_stride = ptrdiff_t{matrix.num_inputs} * kPanelLanes;
  view.num_outputs = matrix.num_outputs;
  view.num_inputs = matrix.num_inputs;
  return view;
}

RowTable make_row_table(std::span<const float> rows, int dim) {
  RowTable table;
  table.dim = dim;
  if (fits_bf16(rows)) {
    table.bf16.resize(rows.size());
    std::transform(rows.begin(), rows.end(), table.bf16.begin(), to_bf16);
  } else {
    table.f32.assign(rows.begin(), rows.end());
  }
  return table;
}

void copy_row(const Kernels& kernels, const RowTable& table, int row, float* out) {
  const size_t first = static_cast<size_t>(row) * static_cast<size_t>(table.dim);
  if (table.f32.empty()) {
    kernels.widen(table.bf16.data() + first, table.dim, out);
  } else {
    std::copy_n(table.f32.data() + first, table.dim, out);
  }
}

}  // namespace plimsoll
