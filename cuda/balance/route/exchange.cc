#include "cuda/balance/route/exchange.h"

#ifdef PLIMSOLL_NCCL
#include <nccl.h>
#endif

namespace plimsoll::gpu {
namespace {

class AlreadyGathered final : public CountExchange {
 public:
  Status all_gather(int32_t*, int, cudaStream_t) override { return ok_status(); }
};

#ifdef PLIMSOLL_NCCL
class OverNccl final : public CountExchange {
 public:
  OverNccl(ncclComm_t communicator, int rank) : communicator_(communicator), rank_(rank) {}

  Status all_gather(int32_t* counts, int row_size, cudaStream_t stream) override {
    const int32_t* own = counts + static_cast<size_t>(rank_) * row_size;
    const ncclResult_t result =
        ncclAllGather(own, counts, row_size, ncclInt32, communicator_, stream);
    if (result == ncclSuccess) return ok_status();
    return unavailable(std::string("gathering the counts of all ranks failed: ") +
                       ncclGetErrorString(result));
  }

 private:
  ncclComm_t communicator_;
  int rank_;
};
#endif

}  // namespace

std::unique_ptr<CountExchange> already_gathered() {
  return std::make_unique<AlreadyGathered>();
}

Result<std::unique_ptr<CountExchange>> over_nccl([[maybe_unused]] ncclComm* communicator) {
#ifdef PLIMSOLL_NCCL
  int rank = 0;
  const ncclResult_t result = ncclCommUserRank(communicator, &rank);
  if (result == ncclSuccess) {
    return std::unique_ptr<CountExchange>(new OverNccl(communicator, rank));
  }
  return unavailable(std::string("NCCL does not tell the rank of the communicator: ") +
                     ncclGetErrorString(result));
#else
  return unsupported("this build has no NCCL; install it and build again");
#endif
}

}  // namespace plimsoll::gpu
