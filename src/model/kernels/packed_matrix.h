// Weight matrices laid out for the kernels.
//
// Stored as bfloat16 where that loses nothing (FP4 and FP8 with power-of-two scales, and bfloat16
// itself), in float32 otherwise; arithmetic is float32 either way.
#pragma once

#include <cstdint>
#include <span>

#include "model/kernels/aligned_vector.h"
#include "model/kernels/kernels.h"

namespace plimsoll {

// Outputs in panels of 32 lanes, inputs in order; see Panels for the order inside a panel.
struct PackedMatrix {
  int num_outputs = 0;
  int num_inputs = 0;
  // One of the two is filled, [panels, num_inputs, 32]; outputs past the end are zero.
  AlignedVector<uint16_t> bf16;
  AlignedVector<float> f32;
};

// `weight` is [num_outputs, num_inputs], row-major.
PackedMatrix pack_matrix(std::span<const float> weight, int num_outputs, int num_inputs);

// Two matrices of one shape as one whose outputs alternate in groups of 16, each padded with zero
// outputs to whole groups.
PackedMatrix pack_interleaved(std::span<const float> first,
                              std::span<const float> second,
                              int num_outputs,
                              int num_inputs);

Panels panels(const PackedMatrix& matrix);

// Rows kept as rows: the embedding, of which a step reads a few.
struct RowTable {
  int dim = 0;
  AlignedVector<uint16_t> bf16;  // one of the two is filled, [rows, dim]
  AlignedVector<float> f32;
};

RowTable make_row_table(std::span<const float> rows, int dim);
void copy_row(const Kernels& kernels, const RowTable& table, int row, float* out);

}  // namespace plimsoll
