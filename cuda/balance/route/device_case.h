// For tests, benchmarks and examples: device memory that frees itself, and random cases.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "balance/random.h"
#include "plimsoll/route.h"

namespace plimsoll::gpu {

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    error_ = cudaMalloc(&data_, (size == 0 ? 1 : size) * sizeof(T));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    if (error_ == cudaSuccess && size_ > 0) {
      error_ = cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice);
    }
  }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(other.data_), size_(other.size_), error_(other.error_) {
    other.data_ = nullptr;
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  // Poisons every byte, so that what nobody writes shows.
  void poison() { cudaMemset(data_, 0x5A, size_ * sizeof(T)); }
  std::vector<T> read() const {
    std::vector<T> values(size_);
    const cudaError_t error =
        cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) values.clear();
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
  cudaError_t error_ = cudaSuccess;
};

// A layer's batch of all sources, each padded to `num_tokens`, and what the CPU makes of it.
struct GpuCase {
  Placement placement;
  RouteOptions options;
  int k = 1;
  int num_tokens = 0;
  std::vector<int32_t> topk_ids;  // [num_ranks, num_tokens, k]

  int num_ranks() const { return placement.num_ranks; }
  int num_experts() const { return placement.num_logical_experts; }
  std::span<const int32_t> ids_of(int source) const {
    const size_t size = static_cast<size_t>(num_tokens) * k;
    return std::span(topk_ids).subspan(source * size, size);
  }
};

// A placement of random copies in random slots.
inline Placement random_placement(SplitMix64& random,
                                  int num_experts,
                                  int num_redundant,
                                  int num_ranks) {
  Placement p = *trivial_placement(1, num_experts, num_redundant, num_ranks);
  const uint32_t few = 1 + random.below(num_experts);  // copies of few experts, or of any
  for (int i = num_experts; i < p.num_physical_experts; ++i) {
    p.physical_to_logical[i] = static_cast<int32_t>(random.below(few));
  }
  for (int i = p.num_physical_experts - 1; i > 0; --i) {
    std::swap(p.physical_to_logical[i], p.physical_to_logical[random.below(i + 1)]);
  }
  return p;
}

}  // namespace plimsoll::gpu
