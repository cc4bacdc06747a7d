// Memory that several processes of one host map, and the waiting for each other in it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

// Zeroed memory without a name, so that nothing is left behind however a process ends. Pages come
// as they are written: a segment may be far larger than the machine's memory.
class SharedSegment {
 public:
  SharedSegment() = default;
  static Result<SharedSegment> create(size_t num_bytes);
  // Another process's segment, by its process id and its descriptor there.
  static Result<SharedSegment> open(pid_t pid, int fd, size_t num_bytes);
  SharedSegment(SharedSegment&& other) noexcept { swap(other); }
  SharedSegment& operator=(SharedSegment&& other) noexcept {
    swap(other);
    return *this;
  }
  ~SharedSegment();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  int fd() const { return fd_; }

 private:
  SharedSegment(int fd, std::byte* data, size_t size) : fd_(fd), data_(data), size_(size) {}
  static Result<SharedSegment> map(int fd, size_t num_bytes);
  void swap(SharedSegment& other);

  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Hands out pieces of a segment of its own; any thread may ask. A piece keeps the arena alive.
class SharedArena : public std::enable_shared_from_this<SharedArena> {
 public:
  explicit SharedArena(SharedSegment segment) : segment_(std::move(segment)) {}

  const SharedSegment& segment() const { return segment_; }
  // Not initialised; null where the segment is used up.
  std::shared_ptr<std::byte[]> allocate(size_t num_bytes);

 private:
  void release(std::byte* piece, size_t num_bytes);

  SharedSegment segment_;
  std::mutex mutex_;
  size_t used_ = 0;
  std::map<size_t, std::vector<std::byte*>> free_;  // by size, a power of two
};

// Sleeps while `word` holds `seen`, until wake_all or `timeout_us` or, rarely, for no reason. The
// word may lie in memory that processes share.
void sleep_while(const std::atomic<uint32_t>& word, uint32_t seen, int64_t timeout_us);
void wake_all(const std::atomic<uint32_t>& word);

}  // namespace plimsoll
