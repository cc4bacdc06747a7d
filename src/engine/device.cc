#include "engine/device.h"

#include "engine/options.h"

namespace plimsoll {

Result<Device> choose_device(const EngineOptions& options) {
  const std::string& name = options.device;
  if (name == "cpu") return Device{};
  if (name != "auto" && name != "cuda" && name != "cuda-on-cpu") {
    return invalid_argument("--device is " + name + ", expected auto, cpu or cuda");
  }
  const bool is_auto = name == "auto";
  if (options.mesh != nullptr) {
    if (is_auto) return Device{.note = "device: cpu, as ranks of several processes are on CPUs"};
    return invalid_argument(
        "--device " + name +
        " holds all ranks in one process, and mpirun started several; leave mpirun out (any "
        "--ep-size runs on one GPU), or use --device cpu");
  }
  if (name == "cuda-on-cpu") return Device{.kind = DeviceKind::kCudaOnCpu};
  Result<gpu::GpuInfo> gpu = gpu::find_gpu();
  if (gpu.ok()) {
    Device device{.kind = DeviceKind::kCuda, .gpu = std::move(*gpu)};
    if (is_auto) device.note = "device: cuda, GPU 0, " + device.gpu.name;
    return device;
  }
  if (is_auto) return Device{.note = "device: cpu, as " + gpu.error().message};
  return invalid_argument("--device cuda: " + gpu.error().message + "; or use --device cpu");
}

}  // namespace plimsoll
