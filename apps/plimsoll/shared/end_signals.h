// How a server is told to end.
#pragma once

#include <pthread.h>

#include <csignal>
#include <ctime>

namespace plimsoll {

// SIGTERM and SIGINT, taken by wait() instead of ending the process. Made before any other thread,
// so that all of them leave the signals alone.
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // Whether one of them has come within half a second.
  bool wait() const {
    const timespec limit{.tv_sec = 0, .tv_nsec = 500'000'000};
    return sigtimedwait(&set_, nullptr, &limit) > 0;
  }
  // From now on they end the process at once: for a user who will not wait.
  void release() const { pthread_sigmask(SIG_UNBLOCK, &set_, nullptr); }

 private:
  sigset_t set_;
};

}  // namespace plimsoll
