#include "model/kernels/kernels.h"

#include <array>

namespace plimsoll {

namespace kernels_generic {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace kernels_v3 {
extern const Kernels kKernels;
}
namespace kernels_v4 {
extern const Kernels kKernels;
}
#endif

namespace {

struct Available {
  std::array<const Kernels*, 3> list = {};
  size_t count = 0;

  Available() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (v4) list[count++] = &kernels_v4::kKernels;
    if (v3) list[count++] = &kernels_v3::kKernels;
#endif
    list[count++] = &kernels_generic::kKernels;
  }
};

const Available& available() {
  static const Available found;
  return found;
}

}  // namespace

const Kernels& kernels() {
  return *available().list[0];
}

std::span<const Kernels* const> available_kernels() {
  return {available().list.data(), available().count};
}

}  // namespace plimsoll
