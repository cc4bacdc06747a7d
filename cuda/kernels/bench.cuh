// What the kernels' bench programs share: device memory, random numbers, times, and the two
// ceilings that a floor is made of.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace plimsoll::gpu::bench {

// Measured on an H200: docs/benchmarks-gpu.md.
constexpr double kBytesPerUs = 4.14e6;
constexpr double kBfloat16PerUs = 746e6;  // operations
constexpr double kE4m3PerUs = 1316e6;

inline void must(cudaError_t error, const char* what = "a CUDA call") {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t size) : size_(size) {
    must(cudaMalloc(&data_, std::max<size_t>(1, size) * sizeof(T)), "allocating");
  }
  Buffer(Buffer&& from) noexcept : data_(from.data_), size_(from.size_) { from.data_ = nullptr; }
  ~Buffer() { cudaFree(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> host() const {
    std::vector<T> copy(size_);
    must(cudaMemcpy(copy.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "copying");
    return copy;
  }
  void poison() { must(cudaMemset(data_, 0xFF, size_ * sizeof(T))); }

 private:
  T* data_ = nullptr;
  size_t size_;
};

__device__ inline uint32_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return static_cast<uint32_t>(x >> 32);
}
// Near normal, spread 1.
__device__ inline float normal(uint64_t seed, uint64_t i) {
  const uint64_t at = (seed * 0x9E3779B97F4A7C15 + i) * 4;
  float sum = 0;
  for (int j = 0; j < 4; ++j) sum += static_cast<float>(mix(at + j)) * 0x1p-32f - 0.5f;
  return sum * 1.7320508f;
}
static __global__ void fill_floats(float* to, size_t size, uint64_t seed, float spread) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size;
       i += size_t{gridDim.x} * blockDim.x) {
    to[i] = normal(seed, i) * spread;
  }
}
static __global__ void fill_bfloat16(__nv_bfloat16* to, size_t size, uint64_t seed, float spread) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size;
       i += size_t{gridDim.x} * blockDim.x) {
    to[i] = __float2bfloat16(normal(seed, i) * spread);
  }
}
// Bytes from `low` to `high`.
static __global__ void fill_bytes(uint8_t* to, size_t size, uint64_t seed, int low, int high) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size;
       i += size_t{gridDim.x} * blockDim.x) {
    to[i] = static_cast<uint8_t>(low + mix(seed * 0x9E3779B97F4A7C15 + i) % (high - low + 1));
  }
}
// Finite e4m3 of either sign, every one as likely as any other.
static __global__ void fill_e4m3(uint8_t* to, size_t size, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size;
       i += size_t{gridDim.x} * blockDim.x) {
    const uint32_t r = mix(seed * 0x9E3779B97F4A7C15 + i);
    to[i] = static_cast<uint8_t>(r % 127 | (r >> 8 & 1) << 7);
  }
}

// ||y - reference|| / ||reference||; NaN where an element of y was not written.
template <typename T>
double distance(const std::vector<T>& y, const std::vector<T>& reference) {
  double difference = 0, size = 1e-300;
  for (size_t i = 0; i < y.size(); ++i) {
    const double d = double{y[i]} - double{reference[i]};
    difference += d * d;
    size += double{reference[i]} * double{reference[i]};
  }
  return std::sqrt(difference / size);
}

// Median time in µs of one of `launches` calls enqueue(i, stream), replayed as one graph.
template <typename Enqueue>
double time_us(int launches, Enqueue enqueue, int replays = 20) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  cudaEvent_t begin, end;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) must(enqueue(i, stream), "a launch");
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&replay, graph, 0));
  must(cudaEventCreate(&begin));
  must(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < replays + 3; ++i) {
    float ms = 0;
    must(cudaEventRecord(begin, stream));
    must(cudaGraphLaunch(replay, stream));
    must(cudaEventRecord(end, stream));
    must(cudaEventSynchronize(end), "a timed launch");
    must(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  cudaEventDestroy(end);
  cudaEventDestroy(begin);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::nth_element(times.begin(), times.begin() + replays / 2, times.end());
  return times[replays / 2] * 1e3 / launches;
}

}  // namespace plimsoll::gpu::bench
