#include "engine/state_limits.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "cuda/model/sequences.h"

namespace plimsoll {
namespace {

constexpr int64_t kMib = 1 << 20;

// Memory that processes can still get without swapping, and a container's limit where it is lower.
int64_t free_memory_bytes() {
  int64_t bytes = INT64_MAX;
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("MemAvailable:")) bytes = std::stoll(line.substr(13)) * 1024;
  }
  int64_t most = 0, used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> most &&
      std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    bytes = std::min(bytes, std::max<int64_t>(most - used, 0));
  }
  return bytes;
}

}  // namespace

Status limit_state(const EngineOptions& options, const ModelConfig& config, EngineSetup& setup) {
  SchedulerLimits& limits = setup.limits;
  const int64_t num_ranks = limits.num_ranks;
  const bool on_cpu = setup.device.kind == DeviceKind::kCpu;
  const int64_t free_bytes = setup.device.kind == DeviceKind::kCuda
                                 ? static_cast<int64_t>(setup.device.gpu.free_bytes)
                                 : free_memory_bytes();
  const int64_t bytes =
      options.max_state_memory_mib > 0 ? options.max_state_memory_mib * kMib : free_bytes / 4;
  limits.state_size = on_cpu ? state_size(config) : gpu::paged_state_size(config);
  limits.max_state_bytes_per_rank = bytes / num_ranks;
  if (options.max_total_tokens > 0) {
    limits.max_tokens_per_rank = options.max_total_tokens / num_ranks;
  }

  const StateSize& size = limits.state_size;
  const int64_t by_memory = (limits.max_state_bytes_per_rank - size.bytes_per_sequence) /
                            std::max<int64_t>(size.bytes_per_token, 1);
  const int64_t longest = std::min(limits.max_tokens_per_rank, by_memory);
  if (longest >= limits.max_sequence_tokens) return ok_status();
  const bool is_memory = by_memory <= limits.max_tokens_per_rank;
  const int64_t whole =
      is_memory ? (size.bytes(1, limits.max_sequence_tokens) * num_ranks + kMib - 1) / kMib
                : limits.max_sequence_tokens * num_ranks;
  const std::string fix =
      std::string(is_memory ? "--max-state-memory-mib " : "--max-total-tokens ") +
      std::to_string(whole) + " lets " + std::to_string(num_ranks) +
      " ranks hold the model's whole context of " + std::to_string(limits.max_sequence_tokens);
  if (longest < 2) {
    return invalid_argument(std::string(is_memory ? "the state memory" : "--max-total-tokens") +
                            " leaves a rank no room for a sequence of two tokens; " + fix);
  }
  limits.max_sequence_tokens = longest;
  setup.notes.push_back("a rank has room for sequences of " + std::to_string(longest) +
                        " tokens at most; " + fix);
  return ok_status();
}

}  // namespace plimsoll
