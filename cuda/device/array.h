// Arrays in the memory of a queue's place.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "cuda/device/queue.h"

namespace plimsoll::gpu {

// A buffer that only grows; what it held is lost when it does.
template <typename T>
class Array {
 public:
  Array() = default;
  Array(Array&& other) noexcept { *this = std::move(other); }
  Array& operator=(Array&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(place_, other.place_);
    return *this;
  }
  ~Array() { Queue::free(place_, data_); }

  T* data() const { return data_; }

  // Null where the queue has failed.
  T* at_least(Queue& queue, size_t size) {
    if (size <= size_) return data_;
    (void)queue.wait();  // work that still reads the old memory
    Queue::free(place_, std::exchange(data_, nullptr));
    place_ = queue.place();
    data_ = static_cast<T*>(queue.allocate(size * sizeof(T)));
    size_ = data_ == nullptr ? 0 : size;
    return data_;
  }

  T* upload(Queue& queue, std::span<const T> values) {
    at_least(queue, values.size());
    queue.copy_in(data_, values.data(), values.size_bytes());
    return data_;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
  Place place_ = Place::kHost;
};

}  // namespace plimsoll::gpu
