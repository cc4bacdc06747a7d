// The gate's choice, for host and device (constexpr: nvcc takes it for both).
#pragma once

#include <cstdint>

namespace plimsoll {

// The k experts of the largest score + bias, best first, of equal ones the first. `best` [k] is
// scratch.
constexpr void pick_best(
    const float* scores, const float* bias, int num_experts, int k, float* best, int32_t* ids) {
  int count = 0;
  for (int e = 0; e < num_experts; ++e) {
    const float value = scores[e] + bias[e];
    if (count == k && !(value > best[k - 1])) continue;
    if (count < k) ++count;
    int at = count - 1;
    for (; at > 0 && value > best[at - 1]; --at) {
      best[at] = best[at - 1];
      ids[at] = ids[at - 1];
    }
    best[at] = value;
    ids[at] = e;
  }
}

}  // namespace plimsoll
