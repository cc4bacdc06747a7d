// Copies of 16 bytes from global to shared memory (PTX ISA, cp.async): for rows gathered by index,
// which the copy engine cannot swizzle.
#pragma once

#include "cuda/kernels/ptx/mbarrier.cuh"

namespace plimsoll::gpu::ptx {

// Writes 16 zero bytes where `valid` is false; nothing is read then.
__device__ inline void copy_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until all but the last `kPending` groups of this thread have arrived.
template <int kPending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Arrives on the barrier, once, when all copies this thread has started so far are there. A reader
// that goes on with the tensor cores needs fence_async_proxy after its wait.
__device__ inline void arrive_after_copies(Mbarrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

}  // namespace plimsoll::gpu::ptx
