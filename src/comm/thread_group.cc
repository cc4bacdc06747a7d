#include "comm/thread_group.h"

#include <algorithm>
#include <optional>
#include <utility>

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

  Status begin_all_to_all(std::span<const Bytes> outgoing) override {
    begun_ = &next_board();
    std::ranges::copy(outgoing, begun_->messages.begin() + rank_ * num_ranks());
    arrived_ = group_.arrival_.arrive();
    return ok_status();
  }

  Status finish_all_to_all(std::span<Bytes> incoming) override {
    const ThreadGroup::Board& board = *std::exchange(begun_, nullptr);
    group_.arrival_.wait(std::move(*arrived_));
    if (group_.someone_left_) return someone_left();
    for (int r = 0; r < num_ranks(); ++r) incoming[r] = board.messages[r * num_ranks() + rank_];
    return ok_status();
  }

  void leave() override {
    if (begun_ != nullptr) group_.arrival_.wait(std::move(*arrived_));
    group_.someone_left_ = true;
    group_.arrival_.arrive_and_drop();
  }

 private:
  Status meet() {
    group_.arrival_.arrive_and_wait();
    return group_.someone_left_ ? someone_left() : ok_status();
  }
  static Status someone_left() { return unavailable("a rank of the group has given up"); }
  ThreadGroup::Board& next_board() { return group_.boards_[num_collectives_++ % 2]; }

  ThreadGroup& group_;
  int rank_;
  uint64_t num_collectives_ = 0;
  // Of an all_to_all that has begun.
  ThreadGroup::Board* begun_ = nullptr;
  std::optional<std::barrier<>::arrival_token> arrived_;
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
