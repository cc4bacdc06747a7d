#include "serve/http/http_outlet.h"

#include <sys/socket.h>

#include <algorithm>

namespace plimsoll {

// Why the socket takes nothing shows again when the server's thread tries.
size_t HttpOutlet::write(uint64_t request, std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  ssize_t num_sent = 0;
  if (request == request_ && num_posted_ == 0) {
    num_sent = ::send(socket_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  const auto num_gone = static_cast<size_t>(std::max<ssize_t>(num_sent, 0));
  if (num_gone < bytes.size()) ++num_posted_;
  return num_gone;
}

void HttpOutlet::announce() {
  const std::lock_guard lock(mutex_);
  ++num_posted_;
}

void HttpOutlet::done() {
  const std::lock_guard lock(mutex_);
  --num_posted_;
}

void HttpOutlet::open_to(uint64_t request) {
  const std::lock_guard lock(mutex_);
  request_ = request;
}

}  // namespace plimsoll
