// What the ranks compute on: `--device`.
#pragma once

#include <string>

#include "cuda/device/queue.h"
#include "plimsoll/result.h"

namespace plimsoll {

enum class DeviceKind {
  kCpu,
  kCuda,
  kCudaOnCpu,  // the GPU's code, run on the host: for tests
};

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  gpu::GpuInfo gpu;  // of kCuda
  std::string note;  // which was taken, and why; empty where it was asked for
};

struct EngineOptions;

// auto takes a GPU where one is usable and the options allow it. Refuses cuda where it cannot be.
Result<Device> choose_device(const EngineOptions& options);

inline gpu::Place place_of(DeviceKind kind) {
  return kind == DeviceKind::kCuda ? gpu::Place::kGpu : gpu::Place::kHost;
}

}  // namespace plimsoll
