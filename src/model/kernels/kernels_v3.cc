// The kernels for x86-64-v3: AVX2 and FMA.
#if defined(__x86_64__)
#define PLIMSOLL_KERNELS kernels_v3
#include "model/kernels/kernels-inl.h"
#endif
