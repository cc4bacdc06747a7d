// The way out of one connection. A piece of a stream goes to the socket on the thread that has it;
// where something is before it, the server's thread sends it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>

namespace plimsoll {

class HttpOutlet {
 public:
  static constexpr uint64_t kNobody = 0;

  explicit HttpOutlet(int socket) : socket_(socket) {}

  // From any thread. Returns how many bytes of the request's stream have gone; the others are to be
  // posted to the server's thread, as after announce().
  size_t write(uint64_t request, std::string_view bytes);
  // Something is about to be posted to the server's thread: nothing may overtake it until that
  // thread has done it.
  void announce();
  void done();

  // By the server's thread: whose stream may be written from other threads. kNobody while bytes
  // wait, and before the socket is closed.
  void open_to(uint64_t request);

 private:
  const int socket_;
  std::mutex mutex_;
  uint64_t request_ = kNobody;
  int num_posted_ = 0;
};

}  // namespace plimsoll
