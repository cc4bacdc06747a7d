// How the blocks of a cluster tell each other numbers: a block sends them into the shared memory of
// the others, 16 bytes at a time, and whoever reads waits until all have come. Unlike a barrier of
// the cluster this does not wait for what was written to global memory.
#pragma once

#include "cuda/balance/route/scratch.cuh"

namespace plimsoll::gpu {

template <typename T>
__device__ inline unsigned address_of(const SharedArray<T>& array, int i) {
  return static_cast<unsigned>(__cvta_generic_to_shared(&array[i]));
}

// By one thread, before the blocks meet. Each mailbox serves once, for so many bytes of all blocks.
__device__ inline void open_mailboxes(const Shape& shape, const Scratch& s) {
  const int bytes[kMailboxes] = {kBlocks * shape.slice_row_size() * 4,
                                 kBlocks * shape.slice_size() * static_cast<int>(sizeof(Column)),
                                 kBlocks * shape.offer_row_size() * 4};
#pragma unroll
  for (int i = 0; i < kMailboxes; ++i) {
    const unsigned box = address_of(s.mailbox, i);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(box) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(box), "r"(bytes[i])
                 : "memory");
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// All blocks have begun, and opened their mailboxes, once each has met the others.
__device__ inline void begin_to_meet() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void meet() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The kernels are launched to overlap with the one before (programmatic dependent launch): the next
// may begin at once, and none touches what others compute, or could still read, before it has
// waited for them. Until then only a placement's tables are read: copies alone change them, and
// those wait.
__device__ inline void let_next_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ inline void wait_for_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Sends 16 bytes to element i of a block's array.
template <typename T>
__device__ inline void send(
    const Scratch& s, Mailbox mailbox, int block, const SharedArray<T>& to, int i, uint4 value) {
  unsigned there, box;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address_of(to, i)), "r"(block));
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(box)
      : "r"(address_of(s.mailbox, mailbox)), "r"(block));
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(there),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(box)
      : "memory");
}

// Waits until all blocks have sent.
__device__ inline void wait_for(const Scratch& s, Mailbox mailbox) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n"
      "@!done bra again;\n"
      "}" ::"r"(address_of(s.mailbox, mailbox))
      : "memory");
}

}  // namespace plimsoll::gpu
