// Ranks spread over processes, one or several in each. Ranks of one host read each other's bytes
// where they lie, in memory that their processes share, and meet at a counter there; bytes for
// other hosts travel through the mesh, and are sent while the sender goes on.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "comm/process_mesh.h"
#include "comm/shared_memory.h"

namespace plimsoll {

// Which ranks a process holds: blocks of equal size, in order.
struct RankBlock {
  int first = 0;
  int count = 0;
};
// Of the idx-th of so many processes.
RankBlock ranks_of(int idx, int num_processes, int num_ranks);

class ProcessGroup final : public DataSink {
 public:
  // Collective over the mesh, which must outlive the group; num_ranks divides over the processes.
  static Result<std::unique_ptr<ProcessGroup>> create(ProcessMesh& mesh, int num_ranks);
  ~ProcessGroup() override;

  int num_ranks() const { return num_ranks_; }
  // The processes that hold the ranks, in order.
  const std::vector<int>& members() const { return members_; }
  RankBlock block(int member) const;
  RankBlock local() const { return block(mesh_.process()); }
  // Ranks of this host, and the place of this process's first among them.
  int num_host_ranks() const { return static_cast<int>(host_ranks_.size()); }
  int first_host_rank() const { return host_idx_[local().first]; }

  // The end of a rank of this process; the group must outlive it.
  std::unique_ptr<Communicator> connect(int rank);

  // Begins again with the ranks of some of the members only, numbered anew from 0, as many a
  // process as before. Each of these processes calls it, with the same epoch, higher than the last;
  // no communicator may be left, and no collective may begin before all have called it.
  void restart(uint32_t epoch, const std::vector<int>& members);
  // Makes all ranks of all members give up the collectives of this epoch.
  void give_up(const std::string& reason);

  std::span<std::byte> place(const DataHeader& header, size_t num_bytes) override;
  void arrived(const DataHeader& header) override;
  void lost(int process) override;
  void given_up(uint32_t epoch, const std::string& reason) override;

 private:
  friend class ProcessCommunicator;

  // A message on the board, where ranks of the host find it.
  struct Notice {
    const std::byte* address;  // for ranks of the sender's process
    int64_t arena_offset;      // for others
    uint64_t num_bytes;
  };
  // What came over the network for one rank, from all others.
  struct Inbox {
    struct Half {
      std::vector<std::vector<std::byte>> messages;  // [from]
      std::atomic<uint32_t> num_arrived = 0;         // in this epoch
    };
    Half halves[2];  // of even and odd sequence numbers
  };

  ProcessGroup(ProcessMesh& mesh, int num_ranks);
  Status share_memory();
  void number_ranks(uint32_t epoch, const std::vector<int>& members);
  int process_of(int rank) const { return members_[rank / ranks_per_process_]; }
  bool near(int rank) const { return host_idx_[rank] >= 0; }
  std::atomic<uint32_t>& host_arrivals() const;
  Notice& notice(uint32_t sequence_number, int from, int to) const;
  Inbox::Half* half_for(const DataHeader& header);  // null: not for this group
  void fail(const std::string& reason);
  Status check();  // whether the epoch has failed
  // Waits until the word, counted up, has reached `target`, or the epoch has failed.
  Status wait_for(const std::atomic<uint32_t>& word, uint32_t target);

  ProcessMesh& mesh_;
  const int ranks_per_process_;
  int num_ranks_ = 0;
  std::vector<int> members_;
  std::vector<int> host_idx_;    // [rank]: place among the ranks of this host, or -1
  std::vector<int> host_ranks_;  // ranks of this host, in order
  std::shared_ptr<SharedArena> arena_;
  std::vector<SharedSegment> arenas_;  // [process], of others on this host
  SharedSegment board_;                // of this host
  bool spin_ = false;                  // every rank of the host has a core to itself

  std::vector<std::unique_ptr<Inbox>> inboxes_;  // [local rank]
  std::atomic<uint32_t> epoch_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;     // of failure_
  std::string failure_;  // why the epoch failed
};

}  // namespace plimsoll
