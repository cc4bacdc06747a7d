#include "model/forward/experts.h"

namespace plimsoll {
namespace {

float* at_least(AlignedVector<float>& buffer, size_t floats) {
  if (buffer.size() < floats) buffer.resize(floats);
  return buffer.data();
}

}  // namespace

void expert_rows(const ExpertWeights& expert,
                 float swiglu_limit,
                 std::span<const ExpertRow> rows,
                 ExpertScratch& scratch) {
  const Kernels& kernels = *scratch.kernels;
  const int num_rows = static_cast<int>(rows.size());
  const int gate_up_stride = expert.gate_up.num_outputs;
  const int hidden_dim = expert.down.num_inputs;
  float* gate_up = at_least(scratch.gate_up, rows.size() * static_cast<size_t>(gate_up_stride));
  float* hidden = at_least(scratch.hidden, rows.size() * static_cast<size_t>(hidden_dim));
  scratch.rows.clear();
  scratch.outs.clear();
  scratch.weights.clear();
  for (const ExpertRow& row : rows) {
    scratch.rows.push_back(row.row);
    scratch.outs.push_back(row.out);
    scratch.weights.push_back(row.weight);
  }
  GemmArgs up;
  up.x_rows = scratch.rows.data();
  up.num_rows = num_rows;
  up.w = panels(expert.gate_up);
  up.y = gate_up;
  up.y_row_stride = gate_up_stride;
  kernels.gemm(up);
  kernels.swiglu(gate_up, gate_up_stride, scratch.weights.data(), num_rows, hidden_dim,
                 swiglu_limit, hidden, hidden_dim);
  GemmArgs down;
  down.x = hidden;
  down.x_row_stride = hidden_dim;
  down.num_rows = num_rows;
  down.w = panels(expert.down);
  down.y_rows = scratch.outs.data();
  kernels.gemm(down);
}

}  // namespace plimsoll
