#include "comm/process_group.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "comm/byte_stream.h"

namespace plimsoll {
namespace {

// Addresses only: pages come as they are used.
constexpr size_t kArenaBytes = size_t{1} << 37;
constexpr size_t kMaxEpochs = 1024;
constexpr size_t kCounterStride = 64;  // a counter a cache line
constexpr size_t kNoticesAt = kMaxEpochs * kCounterStride;
constexpr int kSpins = 4000;
constexpr int64_t kSleepUs = 20'000;  // until a waiting rank looks whether the others still live

// Where a process's shared memory is.
struct Memory {
  int64_t pid = 0;
  int arena_fd = -1;
  int board_fd = -1;
};
template <typename Stream>
void transfer(Stream& stream, Memory& memory) {
  stream(memory.pid, memory.arena_fd, memory.board_fd);
}

}  // namespace

RankBlock ranks_of(int idx, int num_processes, int num_ranks) {
  const int count = num_ranks / num_processes;
  return {idx * count, count};
}

class ProcessCommunicator final : public Communicator {
 public:
  ProcessCommunicator(ProcessGroup& group, int rank)
      : group_(group), rank_(rank), epoch_(group.epoch_) {}

  int rank() const override { return rank_; }
  int num_ranks() const override { return group_.num_ranks_; }

  Status all_gather(std::span<const int32_t> mine, std::span<int32_t> all) override {
    sent_.assign(num_ranks(), std::as_bytes(mine));
    received_.resize(num_ranks());
    if (Status status = all_to_all(sent_, received_); !status.ok()) return status;
    const std::span<std::byte> to = std::as_writable_bytes(all);
    for (int r = 0; r < num_ranks(); ++r) {
      std::ranges::copy(received_[r], to.begin() + static_cast<ptrdiff_t>(r * mine.size_bytes()));
    }
    return ok_status();
  }

  Status begin_all_to_all(std::span<const Bytes> outgoing) override {
    // Who has not returned well from a collective must not arrive at the next: others count on it.
    if (Status status = group_.check(); !status.ok()) return status;
    const uint32_t number = num_collectives_++;
    send_far(number, outgoing);
    return publish(number, outgoing);
  }

  Status finish_all_to_all(std::span<Bytes> incoming) override {
    const uint32_t number = num_collectives_ - 1;
    if (Status status = meet(number); !status.ok()) return status;
    for (int r = 0; r < num_ranks(); ++r) incoming[r] = message_from(number, r);
    return ok_status();
  }

  std::shared_ptr<std::byte[]> allocate(size_t num_bytes) override {
    std::shared_ptr<std::byte[]> piece = group_.arena_->allocate(num_bytes);
    return piece ? piece : Communicator::allocate(num_bytes);
  }

  void leave() override {
    group_.give_up("rank " + std::to_string(rank_) + " has given up");
    group_.mesh_.cancel_data();
  }

 private:
  bool is_local(int rank) const { return group_.process_of(rank) == group_.mesh_.process(); }

  void send_far(uint32_t number, std::span<const Bytes> outgoing) {
    for (int r = 0; r < num_ranks(); ++r) {
      if (group_.near(r)) continue;
      group_.mesh_.send_data(group_.process_of(r), {rank_, r, epoch_, number}, outgoing[r]);
    }
  }

  // Tells the ranks of the host where their messages are, and arrives.
  Status publish(uint32_t number, std::span<const Bytes> outgoing) {
    SendBuffer& copies = copies_[number % 2];
    size_t num_copied = 0;
    Bytes last;
    int64_t last_offset = 0;
    for (int r : group_.host_ranks_) {
      const Bytes bytes = outgoing[r];
      ProcessGroup::Notice& notice = group_.notice(number, rank_, r);
      notice = {bytes.data(), 0, bytes.size()};
      if (is_local(r) || bytes.empty()) continue;
      const bool repeated = bytes.data() == last.data() && bytes.size() == last.size();
      if (!repeated) {
        last = bytes;
        last_offset = offset_of(bytes);
        if (last_offset < 0) {
          std::byte* copy = copy_of(copies, num_copied, outgoing);
          if (offset_of({copy, bytes.size()}) < 0) {
            return unavailable("the memory that ranks share is used up");
          }
          std::ranges::copy(bytes, copy);
          num_copied += bytes.size();
          last_offset = offset_of({copy, bytes.size()});
        }
      }
      notice.arena_offset = last_offset;
    }
    std::atomic<uint32_t>& arrivals = group_.host_arrivals();
    const uint32_t all = (number + 1) * static_cast<uint32_t>(group_.num_host_ranks());
    if (arrivals.fetch_add(1, std::memory_order_acq_rel) + 1 == all) wake_all(arrivals);
    return ok_status();
  }

  // Room in shared memory behind the copies made so far; enough for all messages at the first.
  std::byte* copy_of(SendBuffer& copies, size_t num_copied, std::span<const Bytes> outgoing) {
    if (num_copied > 0) return copies.data() + num_copied;
    size_t most = 0;
    for (int r : group_.host_ranks_) most += is_local(r) ? 0 : outgoing[r].size();
    return copies.reserve(*this, most);
  }

  int64_t offset_of(Bytes bytes) const {
    const SharedSegment& segment = group_.arena_->segment();
    const auto offset =
        reinterpret_cast<intptr_t>(bytes.data()) - reinterpret_cast<intptr_t>(segment.data());
    const bool inside = offset >= 0 && static_cast<size_t>(offset) + bytes.size() <= segment.size();
    return inside ? offset : -1;
  }

  // Waits for all ranks' messages.
  Status meet(uint32_t number) {
    const int num_far = num_ranks() - group_.num_host_ranks();
    const uint32_t near_target = (number + 1) * static_cast<uint32_t>(group_.num_host_ranks());
    const uint32_t far_target = (number / 2 + 1) * static_cast<uint32_t>(num_far);
    if (Status status = group_.wait_for(group_.host_arrivals(), near_target); !status.ok()) {
      return status;
    }
    if (num_far == 0) return ok_status();
    return group_.wait_for(inbox(number).num_arrived, far_target);
  }

  Bytes message_from(uint32_t number, int from) {
    if (!group_.near(from)) return inbox(number).messages[from];
    const ProcessGroup::Notice& notice = group_.notice(number, from, rank_);
    if (is_local(from)) return {notice.address, notice.num_bytes};
    const SharedSegment& arena = group_.arenas_[group_.process_of(from)];
    return {arena.data() + notice.arena_offset, notice.num_bytes};
  }

  ProcessGroup::Inbox::Half& inbox(uint32_t number) {
    return group_.inboxes_[rank_ - group_.local().first]->halves[number % 2];
  }

  ProcessGroup& group_;
  int rank_;
  const uint32_t epoch_;
  uint32_t num_collectives_ = 0;
  SendBuffer copies_[2];  // of what lay in memory of this process alone
  std::vector<Bytes> sent_, received_;
};

ProcessGroup::ProcessGroup(ProcessMesh& mesh, int num_ranks)
    : mesh_(mesh), ranks_per_process_(num_ranks / mesh.num_processes()) {
  std::vector<int> all(mesh.num_processes());
  std::iota(all.begin(), all.end(), 0);
  number_ranks(0, all);
}

RankBlock ProcessGroup::block(int member) const {
  const auto found = std::ranges::find(members_, member);
  const auto idx = static_cast<int>(found - members_.begin());
  return ranks_of(idx, static_cast<int>(members_.size()), num_ranks_);
}

void ProcessGroup::number_ranks(uint32_t epoch, const std::vector<int>& members) {
  members_ = members;
  num_ranks_ = ranks_per_process_ * static_cast<int>(members.size());
  host_idx_.assign(num_ranks_, -1);
  host_ranks_.clear();
  for (int r = 0; r < num_ranks_; ++r) {
    if (!mesh_.same_host(process_of(r))) continue;
    host_idx_[r] = num_host_ranks();
    host_ranks_.push_back(r);
  }
  spin_ = host_ranks_.size() <= std::thread::hardware_concurrency();
  inboxes_.clear();
  for (int i = 0; i < ranks_per_process_; ++i) {
    inboxes_.push_back(std::make_unique<Inbox>());
    for (Inbox::Half& half : inboxes_.back()->halves) half.messages.resize(num_ranks_);
  }
  failed_ = false;
  epoch_ = epoch;
}

Result<std::unique_ptr<ProcessGroup>> ProcessGroup::create(ProcessMesh& mesh, int num_ranks) {
  if (num_ranks % mesh.num_processes() != 0) {
    return invalid_argument(std::to_string(num_ranks) + " ranks do not divide over " +
                            std::to_string(mesh.num_processes()) + " processes");
  }
  auto group = std::unique_ptr<ProcessGroup>(new ProcessGroup(mesh, num_ranks));
  if (Status status = group->share_memory(); !status.ok()) return status.error();
  mesh.set_sink(group.get());
  // Nobody sends before all can receive.
  if (auto ready = mesh.share(std::vector<std::byte>{}); !ready.ok()) return ready.error();
  return group;
}

ProcessGroup::~ProcessGroup() {
  mesh_.set_sink(nullptr);
}

// Every process makes an arena; the first of a host also the board.
Status ProcessGroup::share_memory() {
  const auto make = [&]() -> Result<std::vector<std::byte>> {
    Result<SharedSegment> arena = SharedSegment::create(kArenaBytes);
    if (!arena.ok()) return arena.error();
    arena_ = std::make_shared<SharedArena>(std::move(*arena));
    if (host_ranks_.front() == local().first) {
      const size_t num_notices = size_t{2} * num_ranks_ * num_ranks_;
      Result<SharedSegment> board =
          SharedSegment::create(kNoticesAt + num_notices * sizeof(Notice));
      if (!board.ok()) return board.error();
      board_ = std::move(*board);
    }
    return to_bytes(Memory{getpid(), arena_->segment().fd(), board_.fd()});
  };
  const auto all = mesh_.share(make());
  if (!all.ok()) return all.error();
  const auto open = [&]() -> Result<std::vector<std::byte>> {
    arenas_.resize(mesh_.num_processes());
    for (int p = 0; p < mesh_.num_processes(); ++p) {
      Memory memory;
      if (p == mesh_.process() || !mesh_.same_host(p)) continue;
      if (!from_bytes((*all)[p], memory)) return unavailable("the processes are of unlike builds");
      const auto pid = static_cast<pid_t>(memory.pid);
      Result<SharedSegment> arena = SharedSegment::open(pid, memory.arena_fd, kArenaBytes);
      if (!arena.ok()) return arena.error();
      arenas_[p] = std::move(*arena);
      if (p != process_of(host_ranks_.front())) continue;
      const size_t num_notices = size_t{2} * num_ranks_ * num_ranks_;
      Result<SharedSegment> board =
          SharedSegment::open(pid, memory.board_fd, kNoticesAt + num_notices * sizeof(Notice));
      if (!board.ok()) return board.error();
      board_ = std::move(*board);
    }
    return std::vector<std::byte>{};
  };
  const auto opened = mesh_.share(open());
  return opened.ok() ? ok_status() : Status(opened.error());
}

std::unique_ptr<Communicator> ProcessGroup::connect(int rank) {
  return std::make_unique<ProcessCommunicator>(*this, rank);
}

void ProcessGroup::restart(uint32_t epoch, const std::vector<int>& members) {
  mesh_.set_sink(nullptr);  // its thread must not see the change half made
  number_ranks(epoch, members);
  mesh_.set_sink(this);
  for (int p : members) {
    if (!mesh_.alive(p)) lost(p);  // since then
  }
}

void ProcessGroup::give_up(const std::string& reason) {
  fail(reason);
  mesh_.give_up(epoch_, check().error().message);
}

std::atomic<uint32_t>& ProcessGroup::host_arrivals() const {
  std::byte* counter = board_.data() + epoch_ % kMaxEpochs * kCounterStride;
  return *reinterpret_cast<std::atomic<uint32_t>*>(counter);
}

ProcessGroup::Notice& ProcessGroup::notice(uint32_t sequence_number, int from, int to) const {
  auto* notices = reinterpret_cast<Notice*>(board_.data() + kNoticesAt);
  return notices[(size_t{sequence_number % 2} * num_ranks_ + from) * num_ranks_ + to];
}

void ProcessGroup::fail(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (failed_) return;
  failure_ = reason;
  failed_ = true;
}

Status ProcessGroup::check() {
  if (!failed_) return ok_status();
  const std::lock_guard lock(mutex_);
  return unavailable(failure_);
}

Status ProcessGroup::wait_for(const std::atomic<uint32_t>& word, uint32_t target) {
  for (int spins = 0;; ++spins) {
    const uint32_t seen = word.load(std::memory_order_acquire);
    if (static_cast<int32_t>(seen - target) >= 0) return ok_status();
    if (Status status = check(); !status.ok()) return status;
    if (!spin_ || spins >= kSpins) sleep_while(word, seen, kSleepUs);
  }
}

ProcessGroup::Inbox::Half* ProcessGroup::half_for(const DataHeader& header) {
  const int idx = header.to_rank - local().first;
  const bool known = header.epoch == epoch_ && idx >= 0 && idx < local().count &&
                     header.from_rank >= 0 && header.from_rank < num_ranks_;
  return known ? &inboxes_[idx]->halves[header.sequence_number % 2] : nullptr;
}

std::span<std::byte> ProcessGroup::place(const DataHeader& header, size_t num_bytes) {
  Inbox::Half* half = half_for(header);
  if (half == nullptr) return {};
  half->messages[header.from_rank].resize(num_bytes);
  return half->messages[header.from_rank];
}

void ProcessGroup::arrived(const DataHeader& header) {
  Inbox::Half* half = half_for(header);
  if (half == nullptr) return;
  half->num_arrived.fetch_add(1, std::memory_order_acq_rel);
  wake_all(half->num_arrived);
}

void ProcessGroup::lost(int process) {
  if (std::ranges::find(members_, process) != members_.end()) fail(mesh_.death(process).message);
}

void ProcessGroup::given_up(uint32_t epoch, const std::string& reason) {
  if (epoch == epoch_) fail(reason);
}

}  // namespace plimsoll
