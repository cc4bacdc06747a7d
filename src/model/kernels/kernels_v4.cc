// The kernels for x86-64-v4: AVX-512.
#if defined(__x86_64__)
#define PLIMSOLL_KERNELS kernels_v4
#include "model/kernels/kernels-inl.h"
#endif
