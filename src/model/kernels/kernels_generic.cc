// The kernels for whatever the compiler's baseline has.
#define PLIMSOLL_KERNELS kernels_generic
#include "model/kernels/kernels-inl.h"
