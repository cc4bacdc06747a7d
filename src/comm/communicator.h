// How bytes move between EP ranks. Every rank holds one Communicator of its group and calls the
// same collectives in the same order; ranks are threads of one process (thread_group.h) or
// processes.
//
// One rule of lifetime for all of them: bytes given to a collective must stay as they are until the
// caller has returned from its next collective, and bytes received from it may be read until the
// caller enters that. It lets ranks that share memory read each other's buffers instead of copying
// them, and others send while the caller computes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

using Bytes = std::span<const std::byte>;

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int num_ranks() const = 0;

  // all[r * mine.size() ... ] becomes what rank r passed as `mine`; sizes are equal on all ranks.
  virtual Status all_gather(std::span<const int32_t> mine, std::span<int32_t> all) = 0;

  // Sends outgoing[r] to rank r, itself included, and sets incoming[r] to what rank r sent here.
  Status all_to_all(std::span<const Bytes> outgoing, std::span<Bytes> incoming) {
    const Status begun = begin_all_to_all(outgoing);
    return begun.ok() ? finish_all_to_all(incoming) : begun;
  }
  // Its halves, for what can be computed while bytes travel and slower ranks arrive. No other
  // collective may come between them.
  virtual Status begin_all_to_all(std::span<const Bytes> outgoing) = 0;
  virtual Status finish_all_to_all(std::span<Bytes> incoming) = 0;

  // Memory, not initialised, from which all_to_all sends without another copy to ranks that could
  // share it. Bytes from elsewhere may be copied once on their way.
  virtual std::shared_ptr<std::byte[]> allocate(size_t num_bytes) {
    return std::make_shared_for_overwrite<std::byte[]>(num_bytes);
  }

  // Gives up: collectives that others wait in, or call later, fail instead of waiting for this
  // rank.
  virtual void leave() = 0;
};

// A buffer to send from, which only grows.
class SendBuffer {
 public:
  // At least so many bytes; what they held is lost where the buffer must grow.
  std::byte* reserve(Communicator& comm, size_t num_bytes) {
    if (num_bytes > size_) {
      size_ = std::max(num_bytes, size_ + size_ / 2);
      bytes_ = comm.allocate(size_);
    }
    return bytes_.get();
  }
  std::byte* data() const { return bytes_.get(); }

 private:
  std::shared_ptr<std::byte[]> bytes_;
  size_t size_ = 0;
};

}  // namespace plimsoll
