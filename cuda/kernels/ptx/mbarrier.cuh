// Barriers in shared memory that count arriving threads and arriving bytes (PTX ISA, mbarrier), the
// named barriers of a block, and barriers across a cluster of blocks.
//
// A wait names the parity of the phase it waits for: a barrier starts in phase 0, so the first wait
// has parity 0, and a wait with parity 1 on a fresh barrier returns at once.
#pragma once

#include <cstdint>

namespace plimsoll::gpu::ptx {

// The 32-bit address of shared memory that PTX instructions take.
__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

struct Mbarrier {
  uint64_t state;

  // By one thread, before anyone uses it; then fence_mbarrier_init and a barrier of the block (of
  // the cluster, where other blocks arrive on it).
  __device__ void init(uint32_t num_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)),
                 "r"(num_arrivals)
                 : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  // Arrives, and has the phase wait for so many bytes of bulk copies too.
  __device__ void arrive_and_expect(uint32_t num_bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)),
        "r"(num_bytes)
        : "memory");
  }
  __device__ void wait(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni finished;\n"
        "bra.uni again;\n"
        "finished:\n"
        "}" ::"r"(shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Orders this thread's ordinary writes to shared memory before later reads of it by the tensor
// cores and the copy engine. Each writing thread needs it, before the barrier that tells the
// reader.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Barrier `id` (1 to 15; 0 is __syncthreads) among `num_threads` threads of whole warps.
__device__ inline void named_barrier(int id, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// All threads of all blocks of the cluster; what was written before is seen after.
__device__ inline void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Four floats of the shared memory of the cluster's block `rank`, at the place that `pointer` has
// in this block's.
__device__ inline float4 load_remote(const float4* pointer, uint32_t rank) {
  uint32_t address;
  float4 v;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(pointer)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Programmatic dependent launch: lets the next kernel of the stream start while this one runs,
// where it was launched so. It may read and write nothing that this one and those before it touch
// until it has waited, which is until all of them are done and their writes are seen.
__device__ inline void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ inline void wait_for_previous_kernels() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Gives registers of this warpgroup back to the multiprocessor, or takes more: the count a thread
// has from here on, a multiple of 8. The kernel needs __launch_bounds__(threads, 1).
template <int kCount>
__device__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace plimsoll::gpu::ptx
