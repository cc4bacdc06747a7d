// The processes of one job, each connected to all others: control messages in order, data frames
// for a sink, and word of those that die or hang.
//
// A thread of the mesh does what the sockets ask for, and sends heartbeats however long anybody
// computes. A process is dead when its connection ends, or when nothing has come from it for the
// timeout; it stays dead. One of this host that hangs is killed, lest it wake up in memory that it
// shares with others.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "plimsoll/result.h"

namespace plimsoll {

// Gives every process what each of them passed, in order of the processes.
using Bootstrap = std::function<Result<std::vector<std::string>>(const std::string& mine)>;

// Processes with equal text can share memory: the boot, the network and the process namespace.
std::string this_host();

struct MeshOptions {
  int process = 0;
  int num_processes = 1;
  double timeout_seconds = 10;
  std::string host = this_host();
};

// Tells a sink what the bytes of a data frame are.
struct DataHeader {
  int32_t from_rank = 0;
  int32_t to_rank = 0;
  uint32_t epoch = 0;
  uint32_t sequence_number = 0;
};

// Takes data frames, on the mesh's thread.
class DataSink {
 public:
  virtual ~DataSink() = default;
  // Where to put the bytes of a frame; of another size than asked for: nowhere.
  virtual std::span<std::byte> place(const DataHeader& header, size_t num_bytes) = 0;
  virtual void arrived(const DataHeader& header) = 0;
  // A process has died, or a rank somewhere has given up the collectives of an epoch.
  virtual void lost(int process) = 0;
  virtual void given_up(uint32_t epoch, const std::string& reason) = 0;
};

class ProcessMesh {
 public:
  static Result<std::unique_ptr<ProcessMesh>> connect(const MeshOptions& options,
                                                      const Bootstrap& bootstrap);
  ~ProcessMesh();  // says goodbye first

  int process() const { return options_.process; }
  int num_processes() const { return options_.num_processes; }
  bool same_host(int process) const { return peers_[process]->host == options_.host; }

  // "process 2 (on host node1)"
  const std::string& name(int process) const { return peers_[process]->name; }
  bool alive(int process) const { return !peers_[process]->dead; }
  // What happened to a dead process, as a sentence that names it.
  Error death(int process) const;

  // Messages of one process to another arrive in order. receive waits; both fail where the other is
  // dead, receive only after the messages that came before.
  Status send(int to, std::vector<std::byte> message);
  Result<std::vector<std::byte>> receive(int from);

  // Every process passes some bytes and gets everybody's, in order of the processes. A process that
  // passes an error instead makes all fail with it.
  Result<std::vector<std::vector<std::byte>>> share(const Result<std::vector<std::byte>>& mine);

  // Frames that come before there is a sink, or after, are dropped.
  void set_sink(DataSink* sink);
  // `bytes` must stay until the receiver has them, or cancel_data.
  void send_data(int to, const DataHeader& header, Bytes bytes);
  void give_up(uint32_t epoch, const std::string& reason);
  // Lets go of all bytes that send_data was given.
  void cancel_data();

  // Ends the connection to a process that others found dead.
  void bury(int process, const std::string& reason);
  // The reason why this process leaves; what others say of it. Empty: it is done.
  void set_goodbye(std::string reason);

 private:
  enum class Kind : uint32_t { kHeartbeat, kControl, kData, kGiveUp, kGoodbye };
  struct FrameHeader {
    Kind kind = Kind::kHeartbeat;
    uint32_t num_bytes_high = 0;
    uint32_t num_bytes_low = 0;
    DataHeader data;

    uint64_t num_bytes() const { return uint64_t{num_bytes_high} << 32 | num_bytes_low; }
  };
  struct Outgoing {
    FrameHeader header;
    std::vector<std::byte> owned;
    Bytes bytes;          // of `owned`, or of whoever called send_data
    size_t num_sent = 0;  // header included
  };
  struct Peer {
    int process = 0;
    std::string host;
    std::string name;
    int fd = -1;
    int pid_fd = -1;  // of another process of this host
    std::atomic<bool> dead = false;

    std::mutex mutex;  // of the three below, and of sending
    std::deque<Outgoing> queue;
    std::string reason;                        // why it is dead
    std::deque<std::vector<std::byte>> inbox;  // control messages
    std::condition_variable changed;           // of inbox or dead

    // Of the mesh's thread.
    double last_heard = 0;
    double kill_at = 0;  // where it hangs

    // The frame that is being read, under the sink's mutex.
    FrameHeader header;
    size_t num_read = 0;
    std::vector<std::byte> owned;
    std::span<std::byte> target;
    std::vector<std::byte> scrap;
  };

  explicit ProcessMesh(const MeshOptions& options);
  friend class MeshConnector;

  static FrameHeader header_of(Kind kind, size_t num_bytes, const DataHeader& data = {});
  void enqueue(Peer& peer, Outgoing frame);
  void flush(Peer& peer);  // with the peer's mutex held
  void wake();
  void serve();
  // Both say why the peer must be dead, or nothing.
  std::string read_from(Peer& peer);
  std::string end_frame(Peer& peer);
  void begin_payload(Peer& peer);
  void read_into_scrap(Peer& peer);
  void declare_dead(Peer& peer, const std::string& reason);
  void kill_hanging(double now);

  MeshOptions options_;
  std::vector<std::unique_ptr<Peer>> peers_;  // [process]; its own has no connection
  int wake_fd_ = -1;
  std::atomic<bool> stopping_ = false;
  std::mutex sink_mutex_;
  DataSink* sink_ = nullptr;
  std::string goodbye_;
  std::thread thread_;
};

}  // namespace plimsoll
