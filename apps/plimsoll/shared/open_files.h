// How many connections a process may hold open.
#pragma once

#include <sys/resource.h>

#include <algorithm>

namespace plimsoll {

// Raises the process' limit on open files as far as it may, up to what `wanted` connections need,
// and returns how many fit. Each takes `files_each` files; some are left for everything else.
inline int allow_connections(int wanted, int files_each) {
  constexpr rlim_t kOtherFiles = 128;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t needed = kOtherFiles + static_cast<rlim_t>(wanted) * files_each;
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(needed, limit.rlim_max));
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= needed) return wanted;
  const rlim_t room =
      limit.rlim_cur > 2 * kOtherFiles ? limit.rlim_cur - kOtherFiles : limit.rlim_cur / 2;
  return static_cast<int>(room) / files_each;
}

}  // namespace plimsoll
