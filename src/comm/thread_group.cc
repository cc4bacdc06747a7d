#include "comm/thread_group.h"

#include <algorithm>

namespace plimsoll {

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}

  int rank() const override { return rank_; }
  int num_ranks() const override { return group_.num_ranks_; }

  Status all_gather(std::span<const int32_t> mine, std::span<int32_t> all) override {
    ThreadGroup::Board& board = next_board();
    board.gathered[rank_] = mine;
    if (Status status = meet(); !status.ok()) return status;
    for (int r = 0; r < num_ranks(); ++r) {
      std::ranges::copy(board.gathered[r], all.begin() + r * mine.size());
    }
    return ok_status();
  }

  Status all_to_all(std::span<const Bytes> outgoing, std::span<Bytes> incoming) override {
    ThreadGroup::Board& board = next_board();
    std::ranges::copy(outgoing, board.messages.begin() + rank_ * num_ranks());
    if (Status status = meet(); !status.ok()) return status;
    for (int r = 0; r < num_ranks(); ++r) incoming[r] = board.messages[r * num_ranks() + rank_];
    return ok_status();
  }

  void leave() override {
    group_.someone_left_ = true;
    group_.arrival_.arrive_and_drop();
  }

 private:
  Status meet() {
    group_.arrival_.arrive_and_wait();
    if (group_.someone_left_) return unavailable("a rank of the group has given up");
    return ok_status();
  }
  ThreadGroup::Board& next_board() { return group_.boards_[num_collectives_++ % 2]; }

  ThreadGroup& group_;
  int rank_;
  uint64_t num_collectives_ = 0;
};

ThreadGroup::ThreadGroup(int num_ranks) : num_ranks_(num_ranks), arrival_(num_ranks) {
  for (Board& board : boards_) {
    board.gathered.resize(num_ranks);
    board.messages.resize(static_cast<size_t>(num_ranks) * num_ranks);
  }
}

std::unique_ptr<Communicator> ThreadGroup::connect(int rank) {
  return std::make_unique<ThreadCommunicator>(*this, rank);
}

}  // namespace plimsoll
