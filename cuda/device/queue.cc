#include "cuda/device/queue.h"

#include <cstdlib>
#include <cstring>
#ifdef PLIMSOLL_CUDA
#include <cuda_runtime.h>
#endif

namespace plimsoll::gpu {

#ifdef PLIMSOLL_CUDA
namespace {

cudaStream_t stream_of(const Queue& queue) {
  return static_cast<cudaStream_t>(queue.stream());
}

std::string in_words(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")";
}

}  // namespace

Result<GpuInfo> find_gpu() {
  constexpr int kHopper = 9;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return unavailable("no CUDA GPU can be used: " + in_words(error));
  }
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, 0); error != cudaSuccess) {
    return unavailable("GPU 0 cannot be used: " + in_words(error));
  }
  if (properties.major < kHopper) {
    return unavailable("GPU 0 is a " + std::string(properties.name) + ", compute capability " +
                       std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                       "; this build is for 9.0 (H100, H200) and later: build with "
                       "-DCMAKE_CUDA_ARCHITECTURES of yours");
  }
  GpuInfo info{.name = properties.name};
  if (const cudaError_t error = cudaMemGetInfo(&info.free_bytes, &info.total_bytes);
      error != cudaSuccess) {
    return unavailable("GPU 0 cannot be used: " + in_words(error));
  }
  return info;
}
#else
Result<GpuInfo> find_gpu() {
  return unavailable("this build has no CUDA; build where CUDA 12 or newer is found");
}
#endif

Queue::Queue(Place place) : place_(place) {
#ifdef PLIMSOLL_CUDA
  if (place_ != Place::kGpu) return;
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) fail(in_words(error));
  stream_ = stream;
#else
  if (place_ == Place::kGpu) fail("this build has no CUDA");
#endif
}

Queue::~Queue() {
#ifdef PLIMSOLL_CUDA
  if (stream_ != nullptr) cudaStreamDestroy(stream_of(*this));
#endif
}

void* Queue::allocate(size_t num_bytes) {
  constexpr size_t kAlignment = 256;
  if (failed()) return nullptr;
  num_bytes = (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = nullptr;
  if (place_ == Place::kHost) {
    memory = std::aligned_alloc(kAlignment, num_bytes);
    if (memory == nullptr) fail("out of memory for " + std::to_string(num_bytes) + " bytes");
    return memory;
  }
#ifdef PLIMSOLL_CUDA
  if (const cudaError_t error = cudaMalloc(&memory, num_bytes); error != cudaSuccess) {
    cudaGetLastError();  // an allocation that fails leaves the context usable
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    fail(in_words(error) + " for " + std::to_string(num_bytes) + " bytes; " +
         std::to_string(free_bytes) + " of " + std::to_string(total) + " are free");
    return nullptr;
  }
#endif
  return memory;
}

void Queue::free(Place place, void* memory) {
  if (memory == nullptr) return;
  if (place == Place::kHost) {
    std::free(memory);
    return;
  }
#ifdef PLIMSOLL_CUDA
  cudaFree(memory);
#endif
}

void Queue::copy_in(void* to, const void* host, size_t num_bytes) {
  copy(to, host, num_bytes);
#ifdef PLIMSOLL_CUDA
  // Pageable memory is staged before the call returns, pinned memory is not.
  if (place_ == Place::kGpu && !failed()) {
    if (const cudaError_t error = cudaStreamSynchronize(stream_of(*this)); error != cudaSuccess) {
      fail(in_words(error));
    }
  }
#endif
}

void Queue::copy_out(void* host, const void* from, size_t num_bytes) {
  copy(host, from, num_bytes);
}

void Queue::copy(void* to, const void* from, size_t num_bytes) {
  if (failed() || num_bytes == 0) return;
  if (place_ == Place::kHost) {
    std::memcpy(to, from, num_bytes);
    return;
  }
#ifdef PLIMSOLL_CUDA
  const cudaError_t error =
      cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, stream_of(*this));
  if (error != cudaSuccess) fail(in_words(error));
#endif
}

void Queue::fill_zero(void* to, size_t num_bytes) {
  if (failed() || num_bytes == 0) return;
  if (place_ == Place::kHost) {
    std::memset(to, 0, num_bytes);
    return;
  }
#ifdef PLIMSOLL_CUDA
  const cudaError_t error = cudaMemsetAsync(to, 0, num_bytes, stream_of(*this));
  if (error != cudaSuccess) fail(in_words(error));
#endif
}

Status Queue::wait() {
#ifdef PLIMSOLL_CUDA
  if (place_ == Place::kGpu && !failed()) {
    if (const cudaError_t error = cudaStreamSynchronize(stream_of(*this)); error != cudaSuccess) {
      fail(in_words(error));
    }
  }
#endif
  return failed() ? Status(*error_) : ok_status();
}

void Queue::fail(const std::string& what) {
  if (!failed()) error_ = unavailable("the GPU failed in " + context_ + ": " + what);
}

void Queue::check_launch() {
#ifdef PLIMSOLL_CUDA
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) fail(in_words(error));
#endif
}

}  // namespace plimsoll::gpu
