// Hopper's matrix product of a warpgroup (PTX ISA, wgmma.mma_async): d[64, N] (+)= a[64, K] · b[N,
// K] in float32, K = 16 for bf16 and fp16, and 32 for e4m3. `a` lies in shared memory or in
// registers, `b` in shared memory. N is known from the size of d: N/2 floats a thread.
//
//   wgmma_begin(); wgmma_bf16(d, a, b, accumulate) ...; wgmma_commit(); wgmma_wait<0>();
//
// Who holds what, with lane l of warp w of the warpgroup, g = l / 4, t = l % 4:
//   d[4j + 0, 1]: row 16w + g,     columns 8j + 2t, + 1     d[4j + 2, 3]: row 16w + g + 8
//   a in registers, bf16 and fp16: a[0] = row 16w + g, k 2t, + 1; a[1] = row + 8; a[2], a[3] = k +
//   8 a in registers, e4m3: a[0] = row 16w + g, k 4t to + 3; a[1] = row + 8; a[2], a[3] = k + 16
#pragma once

#include <cstdint>

#include "cuda/kernels/ptx/mbarrier.cuh"

namespace plimsoll::gpu::ptx {

// A tile in shared memory as load_box leaves it: rows of 128 bytes along K, swizzled, aligned to
// 1,024 bytes. Add 2 (32 bytes) to go on by one K.
__device__ inline uint64_t smem_descriptor(const void* tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | uint64_t{1} << 16 | ((shared_address(tile) & 0x3FFFF) >> 4);
}

// The same bytes read the other way, for a bf16 `b` with kTransposed = 1: the tile's rows are K,
// its 128 bytes 64 columns of N; the next 64 columns follow `column_stride_bytes` further on. Add
// 128 (16 rows) to go on by one K.
__device__ inline uint64_t smem_descriptor_transposed(const void* tile, int column_stride_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | static_cast<uint64_t>(column_stride_bytes >> 4) << 16 |
         ((shared_address(tile) & 0x3FFFF) >> 4);
}

__device__ inline void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the last `kPending` groups are done.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of d before a wait or between begin and commit.
template <int kSize>
__device__ void wgmma_hold(float (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define PLIMSOLL_D4 "%0,%1,%2,%3"
#define PLIMSOLL_D8 PLIMSOLL_D4 ",%4,%5,%6,%7"
#define PLIMSOLL_D16 PLIMSOLL_D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define PLIMSOLL_D32 PLIMSOLL_D16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PLIMSOLL_D48 PLIMSOLL_D32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define PLIMSOLL_D64                                                  \
  PLIMSOLL_D32                                                        \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PLIMSOLL_D128                                                            \
  PLIMSOLL_D64                                                                   \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"            \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"             \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define PLIMSOLL_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PLIMSOLL_F8(i) PLIMSOLL_F4(i), PLIMSOLL_F4(i + 4)
#define PLIMSOLL_F16(i) PLIMSOLL_F8(i), PLIMSOLL_F8(i + 8)
#define PLIMSOLL_F32(i) PLIMSOLL_F16(i), PLIMSOLL_F16(i + 16)
#define PLIMSOLL_F48(i) PLIMSOLL_F32(i), PLIMSOLL_F16(i + 32)
#define PLIMSOLL_F64(i) PLIMSOLL_F32(i), PLIMSOLL_F32(i + 32)
#define PLIMSOLL_F128(i) PLIMSOLL_F64(i), PLIMSOLL_F64(i + 64)
// N, floats of d, then the numbers of the seven operands that follow d.
#define PLIMSOLL_WGMMA(N, R, o0, o1, o2, o3, o4, o5, o6)                                         \
  template <int kTransposed = 0>                                                                 \
  __device__ void wgmma_bf16(float(&d)[R], uint64_t a, uint64_t b, bool accumulate) {            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o2                                         \
                 ", 0;\n"                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" PLIMSOLL_D##R      \
                 "}, %" o0 ", %" o1 ", p, 1, 1, 0, %" o3 ";\n}"                                  \
                 : PLIMSOLL_F##R(0)                                                              \
                 : "l"(a), "l"(b), "r"(int{accumulate}), "n"(kTransposed));                      \
  }                                                                                              \
  template <int kTransposed = 0>                                                                 \
  __device__ void wgmma_bf16(float(&d)[R], const uint32_t(&a)[4], uint64_t b, bool accumulate) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o5                                         \
                 ", 0;\n"                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" PLIMSOLL_D##R      \
                 "}, {%" o0 ", %" o1 ", %" o2 ", %" o3 "}, %" o4 ", p, 1, 1, %" o6 ";\n}"        \
                 : PLIMSOLL_F##R(0)                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}),     \
                   "n"(kTransposed));                                                            \
  }                                                                                              \
  __device__ inline void wgmma_e4m3(float(&d)[R], uint64_t a, uint64_t b, bool accumulate) {     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o2                                         \
                 ", 0;\n"                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" PLIMSOLL_D##R      \
                 "}, %" o0 ", %" o1 ", p, 1, 1;\n}"                                              \
                 : PLIMSOLL_F##R(0)                                                              \
                 : "l"(a), "l"(b), "r"(int{accumulate}));                                        \
  }                                                                                              \
  __device__ inline void wgmma_fp16(float(&d)[R], const uint32_t(&a)[4], uint64_t b,             \
                                    bool accumulate) {                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o5                                         \
                 ", 0;\n"                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" PLIMSOLL_D##R        \
                 "}, {%" o0 ", %" o1 ", %" o2 ", %" o3 "}, %" o4 ", p, 1, 1, 0;\n}"              \
                 : PLIMSOLL_F##R(0)                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}));    \
  }                                                                                              \
  __device__ inline void wgmma_e4m3(float(&d)[R], const uint32_t(&a)[4], uint64_t b,             \
                                    bool accumulate) {                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o5                                         \
                 ", 0;\n"                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" PLIMSOLL_D##R      \
                 "}, {%" o0 ", %" o1 ", %" o2 ", %" o3 "}, %" o4 ", p, 1, 1;\n}"                 \
                 : PLIMSOLL_F##R(0)                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}));    \
  }

PLIMSOLL_WGMMA(8, 4, "4", "5", "6", "7", "8", "9", "10")
PLIMSOLL_WGMMA(16, 8, "8", "9", "10", "11", "12", "13", "14")
PLIMSOLL_WGMMA(32, 16, "16", "17", "18", "19", "20", "21", "22")
PLIMSOLL_WGMMA(64, 32, "32", "33", "34", "35", "36", "37", "38")
PLIMSOLL_WGMMA(96, 48, "48", "49", "50", "51", "52", "53", "54")
PLIMSOLL_WGMMA(128, 64, "64", "65", "66", "67", "68", "69", "70")
PLIMSOLL_WGMMA(256, 128, "128", "129", "130", "131", "132", "133", "134")

#undef PLIMSOLL_WGMMA
#undef PLIMSOLL_D4
#undef PLIMSOLL_D8
#undef PLIMSOLL_D16
#undef PLIMSOLL_D32
#undef PLIMSOLL_D48
#undef PLIMSOLL_D64
#undef PLIMSOLL_D128
#undef PLIMSOLL_F4
#undef PLIMSOLL_F8
#undef PLIMSOLL_F16
#undef PLIMSOLL_F32
#undef PLIMSOLL_F48
#undef PLIMSOLL_F64
#undef PLIMSOLL_F128

}  // namespace plimsoll::gpu::ptx
