#include "cuda/kernels/ptx/tensor_map.h"

namespace plimsoll::gpu {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, asked for at run time: the program loads on machines without a driver.
Encode encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess
             ? reinterpret_cast<Encode>(function)
             : nullptr;
}

CUtensorMapDataType driver_type(BoxElement element) {
  switch (element) {
    case BoxElement::kByte:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case BoxElement::kBfloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case BoxElement::kFloat32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
  return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

}  // namespace

cudaError_t make_tensor_map(const BoxedMatrix& matrix, CUtensorMap* map) {
  static const Encode encode = encode_function();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(matrix.columns),
                              static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(matrix.row_stride_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(matrix.box_columns),
                            static_cast<cuuint32_t>(matrix.box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result =
      encode(map, driver_type(matrix.element), 2, const_cast<void*>(matrix.data), sizes, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace plimsoll::gpu
