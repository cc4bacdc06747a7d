// One variant of the kernels. A kernels_*.cc defines PLIMSOLL_KERNELS (the variant's namespace),
// includes this and is compiled for its instruction set.
#pragma once

#include "model/kernels/attention-inl.h"
#include "model/kernels/elementwise-inl.h"
#include "model/kernels/gemm-inl.h"
#include "model/kernels/hyper_connection-inl.h"

#define PLIMSOLL_STRING_OF(name) #name
#define PLIMSOLL_STRING(name) PLIMSOLL_STRING_OF(name)

namespace plimsoll::PLIMSOLL_KERNELS {

extern const Kernels kKernels;
const Kernels kKernels = {
    .name = PLIMSOLL_STRING(PLIMSOLL_KERNELS),
    .fused = kFused,
    .gemm = gemm,
    .inverse_rms = inverse_rms,
    .scale_rows = scale_rows,
    .rotate = rotate,
    .hyper_mix = hyper_mix,
    .hyper_collapse = hyper_collapse,
    .hyper_expand = hyper_expand,
    .softmax = softmax,
    .compress = compress,
    .swiglu = swiglu,
    .sqrt_softplus = sqrt_softplus,
    .indexer_scores = indexer_scores,
    .select_top = select_top,
    .widen = widen,
};

}  // namespace plimsoll::PLIMSOLL_KERNELS
