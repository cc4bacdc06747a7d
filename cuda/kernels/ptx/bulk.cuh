// Copies between global and shared memory by the copy engine (PTX ISA, cp.async.bulk): one thread
// starts them, and a load's bytes arrive on an Mbarrier.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/kernels/ptx/mbarrier.cuh"

namespace plimsoll::gpu::ptx {

// How long the second-level cache should keep what a load brings (the policy words that
// createpolicy makes for whole accesses).
enum class Keep : uint64_t {
  kNormal = 0x1000000000000000,
  kShort = 0x12F0000000000000,  // read once: weights of a small batch
  kLong = 0x14F0000000000000,   // read by many blocks
};

// A box of a matrix described by a tensor map (tensor_map.h), its first element at `column`, `row`.
// What lies outside the matrix arrives as 0 and counts as bytes. `to` is aligned to 1,024 bytes.
__device__ inline void load_box(const CUtensorMap* map,
                                void* to,
                                Mbarrier* barrier,
                                int column,
                                int row,
                                Keep keep = Keep::kNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row),
      "l"(static_cast<uint64_t>(keep))
      : "memory");
}

// `num_bytes` in a row; both addresses and the number are multiples of 16.
__device__ inline void load_bytes(void* to,
                                  const void* from,
                                  uint32_t num_bytes,
                                  Mbarrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(num_bytes), "r"(shared_address(barrier))
      : "memory");
}

// From shared to global memory; fence_async_proxy before it where threads wrote the bytes.
__device__ inline void store_bytes(void* to, const void* from, uint32_t num_bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(num_bytes)
               : "memory");
}
__device__ inline void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all but the last `kPending` groups of this thread's stores have read their shared memory.
template <int kPending>
__device__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

}  // namespace plimsoll::gpu::ptx
