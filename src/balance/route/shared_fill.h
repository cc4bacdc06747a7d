// Waterfill for a shared expert that costs other than a routed one: lumps poured onto levelled
// ranks.
#pragma once

#include <cstdint>
#include <span>

#include "plimsoll/route.h"

namespace plimsoll {

// Deals out plan.shared, and raises plan.lower_bound to what shared and routed experts together
// need. The routed ones stand in w.level; where the batch is small enough to try every way to deal
// the shared experts out, they are levelled again to go with the best of these.
void fill_with_shared(const RouteTables& tables,
                      std::span<const int32_t> active_tokens,
                      RouteWorkspace& w,
                      RoutePlan& plan);

// Deals the shared experts out onto ranks that have room for room(r) of them each, enough in all:
// home first, then the lowest ranks with room.
template <typename Room>
void pour_shared(const RouteTables& t,
                 std::span<const int32_t> active_tokens,
                 Room room,
                 RouteWorkspace& w,
                 RoutePlan& plan) {
  std::vector<int64_t>& room_left = w.level.capacity;
  for (int r = 0; r < t.num_ranks; ++r) {
    const int64_t own = int64_t{active_tokens[r]} * t.options.num_shared_experts;
    const int64_t at_home = std::min<int64_t>(own, room(r));
    w.supply[r] = static_cast<int32_t>(own - at_home);
    room_left[r] = room(r) - at_home;
    plan.shared[static_cast<size_t>(r) * t.num_ranks + r] = static_cast<int32_t>(at_home);
  }
  for (int s = 0, r = 0; s < t.num_ranks; ++s) {
    while (w.supply[s] > 0) {
      while (room_left[r] == 0) ++r;
      const auto moved = static_cast<int32_t>(std::min<int64_t>(w.supply[s], room_left[r]));
      plan.shared[static_cast<size_t>(s) * t.num_ranks + r] += moved;
      w.supply[s] -= moved;
      room_left[r] -= moved;
    }
  }
}

}  // namespace plimsoll
