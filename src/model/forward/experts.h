// One expert of a mixture-of-experts layer, applied to rows: y = w2 (weight * silu(w1 x) * (w3 x)),
// the gate clamped from above and the other factor on both sides (DeepSeek-V4's clamped SwiGLU).
#pragma once

#include <span>
#include <vector>

#include "ep/exchange.h"
#include "model/kernels/packed_matrix.h"

namespace plimsoll {

struct ExpertWeights {
  PackedMatrix gate_up;  // w1 and w3 interleaved by 16 outputs: [2 * intermediate (padded), hidden]
  PackedMatrix down;     // w2: [hidden, intermediate]
};

// What a thread that computes experts keeps: hidden activations, grown to the largest call and
// reused.
struct ExpertScratch {
  const Kernels* kernels = &plimsoll::kernels();
  AlignedVector<float> gate_up;
  AlignedVector<float> hidden;
  std::vector<const float*> rows;
  std::vector<float*> outs;
  std::vector<float> weights;
};

// out = weight * expert(row) for every row, [hidden] each. A result's bits depend on its row and
// weight alone.
void expert_rows(const ExpertWeights& expert,
                 float swiglu_limit,
                 std::span<const ExpertRow> rows,
                 ExpertScratch& scratch);

}  // namespace plimsoll
