#include "comm/shared_memory.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>

namespace plimsoll {
namespace {

constexpr size_t kMinPieceBytes = 4096;

Error failed(const std::string& what) {
  return io_error("cannot " + what + ": " + std::strerror(errno));
}

}  // namespace

Result<SharedSegment> SharedSegment::map(int fd, size_t num_bytes) {
  void* data = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (data == MAP_FAILED) {
    const Error error = failed("map shared memory");
    close(fd);
    return error;
  }
  return SharedSegment(fd, static_cast<std::byte*>(data), num_bytes);
}

Result<SharedSegment> SharedSegment::create(size_t num_bytes) {
  const int fd = memfd_create("plimsoll", MFD_CLOEXEC);
  if (fd < 0) return failed("create shared memory");
  if (ftruncate(fd, static_cast<off_t>(num_bytes)) != 0) {
    const Error error = failed("reserve shared memory");
    close(fd);
    return error;
  }
  return map(fd, num_bytes);
}

Result<SharedSegment> SharedSegment::open(pid_t pid, int fd, size_t num_bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const int own = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (own < 0) return failed("open the shared memory of process id " + std::to_string(pid));
  return map(own, num_bytes);
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) munmap(data_, size_);
  if (fd_ >= 0) close(fd_);
}

void SharedSegment::swap(SharedSegment& other) {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

std::shared_ptr<std::byte[]> SharedArena::allocate(size_t num_bytes) {
  const size_t piece_bytes = std::bit_ceil(std::max(num_bytes, kMinPieceBytes));
  std::byte* piece = nullptr;
  {
    const std::lock_guard lock(mutex_);
    std::vector<std::byte*>& free = free_[piece_bytes];
    if (!free.empty()) {
      piece = free.back();
      free.pop_back();
    } else if (piece_bytes <= segment_.size() - used_) {
      piece = segment_.data() + used_;
      used_ += piece_bytes;
    }
  }
  if (piece == nullptr) return nullptr;
  return {piece, [arena = shared_from_this(), piece_bytes](std::byte* released) {
            arena->release(released, piece_bytes);
          }};
}

void SharedArena::release(std::byte* piece, size_t num_bytes) {
  const std::lock_guard lock(mutex_);
  free_[num_bytes].push_back(piece);
}

void sleep_while(const std::atomic<uint32_t>& word, uint32_t seen, int64_t timeout_us) {
  const timespec timeout{.tv_sec = timeout_us / 1'000'000,
                         .tv_nsec = timeout_us % 1'000'000 * 1000};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void wake_all(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace plimsoll
