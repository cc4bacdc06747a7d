// How the counts of all ranks come together on each GPU: [num_ranks, row_size], a row per rank.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "plimsoll/result.h"

struct ncclComm;

namespace plimsoll::gpu {

class CountExchange {
 public:
  virtual ~CountExchange() = default;
  // Enqueues the exchange: this rank's row is in its place; afterwards all rows are.
  virtual Status all_gather(int32_t* counts, int row_size, cudaStream_t stream) = 0;
};

// All ranks are on this GPU and count into one matrix: nothing is left to do.
std::unique_ptr<CountExchange> already_gathered();

// A process a rank: NCCL's all-gather, in place. Does not own the communicator, whose ranks must be
// numbered as the EP ranks are. Fails in a build without NCCL.
Result<std::unique_ptr<CountExchange>> over_nccl(ncclComm* communicator);

}  // namespace plimsoll::gpu
