// Where the GPU's part of the engine runs: a stream of a GPU, or the host, which then does all work
// at once and whose own memory stands for the GPU's. Everything above is the same code for both,
// so that it is tested on machines without a GPU.
//
// The first error sticks: what is asked of a queue afterwards does nothing, and wait() tells it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "plimsoll/result.h"

namespace plimsoll::gpu {

enum class Place { kHost, kGpu };

// A GPU this build can use.
struct GpuInfo {
  std::string name;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
};
// GPU 0, or why it cannot be used.
Result<GpuInfo> find_gpu();

class Queue {
 public:
  // On a GPU: a stream of its own.
  explicit Queue(Place place);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  Place place() const { return place_; }
  void* stream() const { return stream_; }  // cudaStream_t
  bool failed() const { return error_.has_value(); }

  // What is being done, for errors: "layer 3, attention of 512 tokens".
  void set_context(std::string context) { context_ = std::move(context); }

  // Memory of the queue's place; null once the queue has failed. Freed by free() on any queue.
  void* allocate(size_t num_bytes);
  static void free(Place place, void* memory);

  // Between the host and the queue's place, or within it, in order with the queue's work. Host
  // memory may be changed when copy_in returns; copy_out has happened after the next wait().
  void copy_in(void* to, const void* host, size_t num_bytes);
  void copy_out(void* host, const void* from, size_t num_bytes);
  void copy(void* to, const void* from, size_t num_bytes);
  void fill_zero(void* to, size_t num_bytes);

  // Until all that was asked for is done. An error of the GPU comes with what was being done.
  Status wait();

  void fail(const std::string& what);
  void check_launch();  // after a kernel launch

 private:
  Place place_;
  void* stream_ = nullptr;
  std::string context_ = "set-up";
  std::optional<Error> error_;
};

}  // namespace plimsoll::gpu
