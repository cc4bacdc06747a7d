// .safetensors files: every byte a header points at is read, and the file is tried as golden
// answers, which checks values too.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "model/checkpoint/golden.h"
#include "model/checkpoint/safetensors.h"

namespace {

plimsoll::ModelConfig small_model() {
  plimsoll::ModelConfig config;
  config.vocab_size = 4;
  config.num_hidden_layers = 1;
  config.num_experts_per_tok = 1;
  config.n_routed_experts = 2;
  return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tensors = plimsoll::parse_safetensors(std::as_bytes(std::span(data, size)));
  if (!tensors.ok()) return 0;
  unsigned sum = 0;
  for (const auto& [name, tensor] : *tensors) {
    for (std::byte byte : tensor.bytes) sum += static_cast<unsigned>(byte);
  }
  if (sum > 255u * size) std::abort();  // tensors do not overlap

  const int fd = memfd_create("golden", 0);
  if (fd >= 0 && write(fd, data, size) == static_cast<ssize_t>(size)) {
    (void)plimsoll::load_golden("/proc/self/fd/" + std::to_string(fd), small_model());
  }
  close(fd);
  return 0;
}
