#include "cuda/experts/grouped_gemm.h"
#include "cuda/experts/tile_results.cuh"

namespace plimsoll::gpu {
namespace {

constexpr int kThreads = 384;  // two warpgroups that multiply, one that copies

template <Activation kActivation,
          WeightFormat kFormat,
          Projection kProjection,
          int kTokens,
          typename Barrier>
__device__ void compute_tile(const GemmArgs& args,
                             const RowTile& rows,
                             int tile,
                             const uint8_t* stages,
                             Barrier& barriers,
                             Turn<Stage<kActivation, kFormat>::kCount>& turn,
                             int peaks_turn) {
  float sums[2][kTokens / 2];
  multiply_tile<kActivation, kFormat, kTokens>(args.blocks, stages, barriers, turn, sums);
  const float4 scale = row_scales<kActivation, kFormat, kProjection>(args, rows, tile);
  if constexpr (kProjection == Projection::kDown) {
    store_home<kActivation, kTokens>(args, rows, tile, scale, sums);
  } else {
    activate<kActivation, kTokens>(args, rows, scale, sums);
    if constexpr (kActivation == Activation::kFp16) {
      store_fp16<kTokens>(args, rows, tile, sums);
    } else {
      store_e4m3<kTokens>(args, rows, tile, sums, barriers, peaks_turn);
    }
  }
}

template <Activation kActivation, WeightFormat kFormat, Projection kProjection>
__global__ void __launch_bounds__(kThreads, 1) grouped_kernel(const GemmArgs args) {
  using S = Stage<kActivation, kFormat>;
  extern __shared__ uint8_t dynamic[];
  __shared__ Barriers<S::kCount> barriers;
  uint8_t* stages = dynamic + (1024 - ptx::shared_address(dynamic) % 1024) % 1024;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kCount; ++i) {
      barriers.full[i].init(1);
      barriers.empty[i].init(8);  // a warp each
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
  const int num_items = *args.rows.num_tiles * args.tiles;
  Turn<S::kCount> turn;
  if (threadIdx.x >= 256) {
    ptx::shrink_registers<24>();
    if (threadIdx.x == 256) {
      for (int item = blockIdx.x; item < num_items; item += gridDim.x) {
        load_tile<kActivation, kFormat, kProjection>(args, args.rows.tiles[item / args.tiles],
                                                     item % args.tiles, stages, barriers, turn);
      }
    }
  } else {
    ptx::grow_registers<240>();
    int peaks_turn = 0;
    for (int item = blockIdx.x; item < num_items; item += gridDim.x, peaks_turn ^= 1) {
      const RowTile rows = args.rows.tiles[item / args.tiles];
      const int tile = item % args.tiles;
#define PLIMSOLL_TILE(tokens)                                                                 \
  compute_tile<kActivation, kFormat, kProjection, tokens>(args, rows, tile, stages, barriers, \
                                                          turn, peaks_turn)
      if (rows.rows <= 8) {
        PLIMSOLL_TILE(8);
      } else if (rows.rows <= 16) {
        PLIMSOLL_TILE(16);
      } else if (rows.rows <= 32) {
        PLIMSOLL_TILE(32);
      } else if (rows.rows <= 64) {
        PLIMSOLL_TILE(64);
      } else if (rows.rows <= 96) {
        PLIMSOLL_TILE(96);
      } else {
        PLIMSOLL_TILE(128);
      }
#undef PLIMSOLL_TILE
    }
  }
}

template <Activation kActivation, WeightFormat kFormat, Projection kProjection>
cudaError_t launch_kernel(const GemmArgs& args, cudaStream_t stream) {
  const auto kernel = grouped_kernel<kActivation, kFormat, kProjection>;
  constexpr int kShared = Stage<kActivation, kFormat>::kSharedBytes;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  }
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = multiprocessors;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

template <Projection kProjection>
cudaError_t launch(const ExpertShape& shape, const GemmArgs& args, cudaStream_t stream) {
  const GroupedRows& rows = args.rows;
  if (shape.hidden <= 0 || shape.intermediate <= 0 || shape.hidden % 32 != 0 ||
      shape.intermediate % 32 != 0 || rows.capacity <= 0 || rows.capacity % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  constexpr auto kFp4 = WeightFormat::kFp4, kFp8 = WeightFormat::kFp8;
  constexpr auto kFp16 = Activation::kFp16, kE4m3 = Activation::kE4m3;
  if (rows.activation == kFp16) {
    return shape.format == kFp4 ? launch_kernel<kFp16, kFp4, kProjection>(args, stream)
                                : launch_kernel<kFp16, kFp8, kProjection>(args, stream);
  }
  return shape.format == kFp4 ? launch_kernel<kE4m3, kFp4, kProjection>(args, stream)
                              : launch_kernel<kE4m3, kFp8, kProjection>(args, stream);
}

}  // namespace

cudaError_t gate_up_gemm(const ExpertShape& shape,
                         const ExpertSlot* slots,
                         const GroupedRows& rows,
                         const ActivationRows& x,
                         const ActivationRows& h,
                         cudaStream_t stream) {
  const GemmArgs args = {slots,
                         rows,
                         x,
                         h,
                         nullptr,
                         num_blocks(shape.hidden),
                         num_tiles(Projection::kGateUp, shape.intermediate),
                         shape.hidden,
                         shape.swiglu_limit};
  return launch<Projection::kGateUp>(shape, args, stream);
}

cudaError_t down_gemm(const ExpertShape& shape,
                      const ExpertSlot* slots,
                      const GroupedRows& rows,
                      const ActivationRows& h,
                      float* y,
                      cudaStream_t stream) {
  const GemmArgs args = {slots,
                         rows,
                         h,
                         {},
                         y,
                         num_blocks(shape.intermediate),
                         num_tiles(Projection::kDown, shape.hidden),
                         shape.hidden,
                         shape.swiglu_limit};
  return launch<Projection::kDown>(shape, args, stream);
}

}  // namespace plimsoll::gpu
