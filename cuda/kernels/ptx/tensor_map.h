// Describes a row-major matrix in device memory to the copy engine (load_box).
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace plimsoll::gpu {

enum class BoxElement { kByte, kBfloat16, kFloat32 };  // kByte: e4m3, packed e2m1

struct BoxedMatrix {
  const void* data = nullptr;  // device memory, aligned to 16 bytes
  BoxElement element = BoxElement::kByte;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride_bytes = 0;  // a multiple of 16
  int box_rows = 0;              // 1 to 256
  int box_columns = 0;           // of 128 bytes together: one row of the 128-byte swizzle
};

// Boxes arrive in shared memory as `box_rows` rows of 128 bytes, the 16-byte pieces of row r at
// piece ^ (r % 8), which is what smem_descriptor (wgmma.cuh) describes. cudaErrorInvalidValue where
// a field is off, cudaErrorNotSupported where the driver has no tensor maps.
cudaError_t make_tensor_map(const BoxedMatrix& matrix, CUtensorMap* map);

}  // namespace plimsoll::gpu
