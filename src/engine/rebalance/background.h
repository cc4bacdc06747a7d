// Threads that work beside the ranks.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

namespace plimsoll {

// Best effort, for the calling thread: if it shares its core with a rank it takes a tenth of it,
// not half.
inline void step_back() {
  constexpr int kNice = 10;
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
}

}  // namespace plimsoll
