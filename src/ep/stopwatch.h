// Time by phases.
#pragma once

#include <time.h>

#include <chrono>

namespace plimsoll {

class Stopwatch {
 public:
  // Adds the time since the last lap, or since the start, to `seconds`.
  void lap(double& seconds) {
    const auto now = std::chrono::steady_clock::now();
    seconds += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Of the calling thread: where ranks outnumber cores, not that of others in between.
inline double thread_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace plimsoll
