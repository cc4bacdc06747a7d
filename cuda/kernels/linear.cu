#include <algorithm>

#include "cuda/kernels/linear.h"
#include "cuda/kernels/linear_tile.cuh"
#include "cuda/kernels/ptx/tensor_map.h"

namespace plimsoll::gpu {
namespace {

constexpr int kFullMachine = 132;  // multiprocessors; only speed hangs on it

Product product_of(const LinearWeight& w, const Operand& x) {
  if (w.type == WeightType::kBfloat16) return Product::kBfloat16;
  return x.type == OperandType::kE4m3 ? Product::kE4m3 : Product::kWidened;
}

bool fits(const LinearWeight& w, const Operand& x) {
  const bool e4m3 = w.type == WeightType::kE4m3;
  const bool made_for_e4m3 = x.type == OperandType::kE4m3 || x.type == OperandType::kBfloat16Paired;
  const bool grouped = w.groups > 1;
  return w.out > 0 && w.out % 8 == 0 && w.in > 0 && w.in % (e4m3 ? 128 : 64) == 0 &&
         w.in <= kMaxChunks * 64 && w.groups > 0 && (!grouped || w.out % (w.groups * 128) == 0) &&
         x.columns == w.in * w.groups && x.rows >= 0 && e4m3 == made_for_e4m3 &&
         e4m3 == (w.scales != nullptr) && !(grouped && x.type == OperandType::kThreeBfloat16) &&
         (x.type == OperandType::kE4m3) == (x.scales != nullptr);
}

struct Maps {
  CUtensorMap weight, tokens;
};

cudaError_t make_maps(
    const LinearWeight& w, const Operand& x, int box_rows, int box_tokens, Maps* maps) {
  const bool e4m3 = w.type == WeightType::kE4m3;
  const bool bytes = x.type == OperandType::kE4m3;
  const int64_t columns = int64_t{x.columns} * (x.type == OperandType::kThreeBfloat16 ? 3 : 1);
  const BoxedMatrix weight{w.data,
                           e4m3 ? BoxElement::kByte : BoxElement::kBfloat16,
                           w.out,
                           w.in,
                           int64_t{w.in} * (e4m3 ? 1 : 2),
                           box_rows,
                           e4m3 ? 128 : 64};
  const BoxedMatrix tokens{x.data,
                           bytes ? BoxElement::kByte : BoxElement::kBfloat16,
                           x.rows,
                           columns,
                           columns * (bytes ? 1 : 2),
                           box_tokens,
                           bytes ? 128 : 64};
  const cudaError_t error = make_tensor_map(weight, &maps->weight);
  return error == cudaSuccess ? make_tensor_map(tokens, &maps->tokens) : error;
}

LinearArguments arguments_of(const LinearWeight& w, const Operand& x, const LinearOutput& y) {
  LinearArguments p{};
  p.weight_chunks = w.in / (w.type == WeightType::kE4m3 ? 128 : 64);
  p.chunks = p.weight_chunks * (x.type == OperandType::kThreeBfloat16 ? 3 : 1);
  const int splits = linear_splits(w);
  p.chunks_per_split = (p.chunks + splits - 1) / splits;
  p.splits = (p.chunks + p.chunks_per_split - 1) / p.chunks_per_split;  // none is empty
  p.rows_per_group = w.out / w.groups;
  p.columns_per_group = w.in;
  p.out = w.out;
  p.tokens = x.rows;
  p.weight_scales = w.scales;
  p.token_scales = x.scales;
  p.token_scale_stride = scale_stride(x.rows);
  p.y = y.data;
  p.y_stride = y.stride;
  p.y_bfloat16 = y.bfloat16;
  return p;
}

template <Product kProduct, int kWarpgroups, int kTokens, bool kInTurn>
cudaError_t launch(const LinearWeight& w,
                   const Operand& x,
                   const LinearOutput& y,
                   cudaStream_t stream) {
  using T = Tile<kProduct, kWarpgroups, kTokens>;
  const auto kernel = linear_kernel<kProduct, kWarpgroups, kTokens, kInTurn>;
  const cudaError_t prepared = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, T::shared_bytes(T::kMostStages));
  if (prepared != cudaSuccess) return prepared;
  Maps maps;
  const cudaError_t error = make_maps(w, x, T::kRows, kTokens, &maps);
  if (error != cudaSuccess) return error;
  LinearArguments p = arguments_of(w, x, y);
  const unsigned blocks_of_a_tile = kInTurn ? 1 : p.splits;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {blocks_of_a_tile, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(blocks_of_a_tile, (w.out + T::kRows - 1) / T::kRows, (x.rows + kTokens - 1) / kTokens);
  config.blockDim = T::kThreads;
  const int64_t blocks = int64_t{config.gridDim.x} * config.gridDim.y * config.gridDim.z;
  // A large cluster needs room on many neighbours at once.
  const bool few = blocks > 2 * kFullMachine || blocks_of_a_tile > 2;
  p.stages = few ? T::kFewStages : T::kMostStages;
  config.dynamicSmemBytes = T::shared_bytes(p.stages);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, maps.weight, maps.tokens, p);
}

// Few rows take narrow tiles and spread the splits over blocks; many take wide ones, and add the
// splits in one block once there are tiles enough to fill the machine.
template <Product kProduct>
cudaError_t launch_for(const LinearWeight& w,
                       const Operand& x,
                       const LinearOutput& y,
                       cudaStream_t stream) {
  if (x.rows <= 16) return launch<kProduct, 1, 16, false>(w, x, y, stream);
  const int splits = linear_splits(w);
  const int64_t wide_tiles = int64_t{(w.out + 127) / 128} * ((x.rows + 127) / 128);
  // Wide tiles take a multiprocessor each, and eight neighbours are hard to find for a cluster.
  const bool crowded = splits > 2 && wide_tiles * splits <= 2 * kFullMachine;
  if (x.rows <= 64 || crowded) return launch<kProduct, 1, 64, false>(w, x, y, stream);
  const bool in_turn = splits > 1 && wide_tiles * splits > 2 * kFullMachine;
  return in_turn ? launch<kProduct, 2, 128, true>(w, x, y, stream)
                 : launch<kProduct, 2, 128, false>(w, x, y, stream);
}

}  // namespace

int linear_splits(const LinearWeight& w) {
  const int row_tiles = (w.out + 63) / 64;
  const int chunks = w.in / (w.type == WeightType::kE4m3 ? 128 : 64);
  int splits = 1;
  // Until 64-row tiles fill the machine, but no split of fewer than four chunks.
  while (splits < 8 && row_tiles * splits < 128 && chunks >= splits * 8) splits *= 2;
  return splits;
}

cudaError_t linear(const LinearWeight& w,
                   const Operand& x,
                   const LinearOutput& y,
                   cudaStream_t stream) {
  if (!fits(w, x)) return cudaErrorInvalidValue;
  if (x.rows == 0) return cudaSuccess;
  switch (product_of(w, x)) {
    case Product::kBfloat16:
      return launch_for<Product::kBfloat16>(w, x, y, stream);
    case Product::kWidened:
      return launch_for<Product::kWidened>(w, x, y, stream);
    case Product::kE4m3:
      return launch_for<Product::kE4m3>(w, x, y, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace plimsoll::gpu
