// Dispatch and combine between processes of one host, beside MPI_Alltoallv and memcpy of the same
// bytes, in one run; and a low-latency round beside the round trip of a flag between two threads.
//   mpirun -n 8 exchange_mpi [TOKENS]      tokens of all ranks together, by default 4096
// A row is 7168 bf16, 14,336 bytes. Every token chooses 8 of 64 experts at random, spread evenly
// over the ranks. All read what they received, for between processes of one host plimsoll moves
// nothing that the receiver can read where it lies. Times are those of the slowest rank, the median
// of the rounds and their range.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "comm/process_group.h"
#include "ep/exchange_low_latency.h"
#include "ep/exchange_normal.h"

using namespace plimsoll;

namespace {

constexpr int kRowFloats = 7168 / 2;  // as many bytes as 7168 bf16
constexpr size_t kRowBytes = kRowFloats * sizeof(float);
constexpr int kTopK = 8;
constexpr int kNumExperts = 64;
constexpr int kRounds = 15;
constexpr int kLowLatencyTokens = 128;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Result<std::vector<std::string>> gather(const std::string& mine) {
  constexpr int kBytes = 4096;
  std::string padded = mine;
  padded.resize(kBytes);
  auto size = static_cast<int32_t>(mine.size());
  int num_processes = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &num_processes);
  std::string all(size_t{kBytes} * num_processes, '\0');
  std::vector<int32_t> sizes(num_processes);
  MPI_Allgather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD);
  MPI_Allgather(padded.data(), kBytes, MPI_CHAR, all.data(), kBytes, MPI_CHAR, MPI_COMM_WORLD);
  std::vector<std::string> texts;
  for (int p = 0; p < num_processes; ++p) texts.push_back(all.substr(p * kBytes, sizes[p]));
  return texts;
}

void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "exchange_mpi: %s\n", status.error().message.c_str());
  std::exit(1);
}

struct Times {
  double median, least, most;
};

// Of the slowest rank; a round without measuring comes first.
Times measure(const std::function<void()>& round) {
  std::vector<double> seconds;
  for (int i = 0; i <= kRounds; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = now();
    round();
    const double mine = now() - begin;
    double slowest = 0;
    MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (i > 0) seconds.push_back(slowest);
  }
  std::ranges::sort(seconds);
  return {seconds[kRounds / 2], seconds.front(), seconds.back()};
}

// A batch of a rank, its rows filled.
struct Batch {
  std::vector<float> rows, weights;
  std::vector<Target> targets;
  DispatchInput input;

  Batch(int num_tokens, int rank, int num_ranks)
      : rows(static_cast<size_t>(num_tokens) * kRowFloats, 1.0f),
        weights(static_cast<size_t>(num_tokens) * kTopK, 1.0f) {
    std::mt19937 random(rank);
    std::vector<int> experts(kNumExperts);
    for (int e = 0; e < kNumExperts; ++e) experts[e] = e;
    const int per_rank = kNumExperts / num_ranks;
    for (int t = 0; t < num_tokens; ++t) {
      for (int j = 0; j < kTopK; ++j) {
        std::swap(experts[j], experts[j + random() % (kNumExperts - j)]);
        targets.push_back({experts[j] / per_rank, experts[j] % per_rank});
      }
    }
    input = {num_tokens, kTopK, kRowFloats, rows.data(), weights, targets};
  }

  // Rows of dispatch and of combine for each rank.
  void count(std::vector<int>& dispatched, std::vector<int>& combined) const {
    for (int t = 0; t < input.num_tokens; ++t) {
      uint64_t visited = 0;
      for (int j = 0; j < kTopK; ++j) {
        const int rank = targets[t * kTopK + j].rank;
        ++combined[rank];
        if (!(visited >> rank & 1)) ++dispatched[rank];
        visited |= uint64_t{1} << rank;
      }
    }
  }
};

// Reads every cache line: where an exchange hands out rows without moving them, its receiver pays.
void read_all(const void* data, size_t num_bytes) {
  uint64_t sum = 0;
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < num_bytes; i += 64) sum += bytes[i];
  asm volatile("" : : "r"(sum));  // nobody needs the sum, but it must be made
}

// Both ways by MPI: dispatch's rows out, combine's rows back.
class Alltoallv {
 public:
  explicit Alltoallv(const std::vector<int>& rows_out) : sent_(rows_out), received_(rows_out) {
    MPI_Type_contiguous(kRowBytes, MPI_BYTE, &row_);
    MPI_Type_commit(&row_);
    MPI_Alltoall(sent_.data(), 1, MPI_INT, received_.data(), 1, MPI_INT, MPI_COMM_WORLD);
    from_.resize(place(sent_, sent_at_) * kRowBytes, 1);
    to_.resize(place(received_, received_at_) * kRowBytes);
  }

  void run() {
    MPI_Alltoallv(from_.data(), sent_.data(), sent_at_.data(), row_, to_.data(), received_.data(),
                  received_at_.data(), row_, MPI_COMM_WORLD);
    read_all(to_.data(), to_.size());
  }
  void copy() {
    std::memcpy(to_.data(), from_.data(), std::min(to_.size(), from_.size()));
    read_all(to_.data(), to_.size());
  }
  size_t num_bytes() const { return from_.size(); }
  const std::vector<int>& received() const { return received_; }

 private:
  static size_t place(const std::vector<int>& counts, std::vector<int>& at) {
    int total = 0;
    for (int count : counts) at.push_back(total), total += count;
    return total;
  }
  MPI_Datatype row_;
  std::vector<int> sent_, received_, sent_at_, received_at_;
  std::vector<char> from_, to_;
};

double flag_round_trip_us() {
  constexpr int kTrips = 20000;
  std::atomic<int> flag = 0;
  std::thread other([&] {
    for (int i = 0; i < kTrips; ++i) {
      while (flag.load(std::memory_order_acquire) != 2 * i + 1) {
      }
      flag.store(2 * i + 2, std::memory_order_release);
    }
  });
  const double begin = now();
  for (int i = 0; i < kTrips; ++i) {
    flag.store(2 * i + 1, std::memory_order_release);
    while (flag.load(std::memory_order_acquire) != 2 * i + 2) {
    }
  }
  const double seconds = now() - begin;
  other.join();
  return seconds / kTrips * 1e6;
}

template <typename Exchange>
void round_trip(Exchange& exchange, const DispatchInput& input, ExpertWork& work) {
  std::vector<const float*> results(input.targets.size());
  require(exchange.dispatch(input));
  require(exchange.receive(work));
  const float* last = nullptr;
  for (const ExpertRow& row : work.rows) {  // several experts may share a row
    if (row.row != last) read_all(row.row, kRowBytes);
    last = row.row;
  }
  require(exchange.combine(results));
  for (const float* row : results) read_all(row, kRowBytes);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, num_ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &num_ranks);
  const int num_tokens = (argc > 1 ? std::atoi(argv[1]) : 4096) / num_ranks;
  auto mesh = ProcessMesh::connect({.process = rank, .num_processes = num_ranks}, gather);
  require(mesh.ok() ? ok_status() : Status(mesh.error()));
  auto group = ProcessGroup::create(**mesh, num_ranks);
  require(group.ok() ? ok_status() : Status(group.error()));
  const std::unique_ptr<Communicator> comm = (*group)->connect(rank);
  const int num_slots = kNumExperts / num_ranks + 1;

  const Batch batch(num_tokens, rank, num_ranks);
  std::vector<int> dispatched(num_ranks), combined(num_ranks);
  batch.count(dispatched, combined);
  Alltoallv there(dispatched), entries(combined);
  Alltoallv back(entries.received());
  ExpertWork work;
  NormalExchange normal(*comm, num_slots, false);
  const Times ours = measure([&] { round_trip(normal, batch.input, work); });
  const Times mpi = measure([&] { there.run(), back.run(); });
  const Times copied = measure([&] { there.copy(), back.copy(); });
  int64_t mine = there.num_bytes() + back.num_bytes(), num_bytes = 0;
  MPI_Allreduce(&mine, &num_bytes, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);

  const Batch small(kLowLatencyTokens, rank, num_ranks);
  LowLatencyExchange low_latency(*comm, num_slots, kLowLatencyTokens, kRowFloats);
  const Times low = measure([&] { round_trip(low_latency, small.input, work); });
  if (rank == 0) {
    const auto show = [&](const char* name, const Times& times) {
      std::printf("%-14s %8.2f ms (%.2f to %.2f), %6.2f GB/s\n", name, times.median * 1e3,
                  times.least * 1e3, times.most * 1e3,
                  static_cast<double>(num_bytes) / times.median / 1e9);
    };
    std::printf("dispatch + combine, %d ranks x %d tokens, %.0f MB\n", num_ranks, num_tokens,
                static_cast<double>(num_bytes) / 1e6);
    show("plimsoll", ours);
    show("MPI_Alltoallv", mpi);
    show("memcpy", copied);
    std::printf("plimsoll/MPI_Alltoallv %.2f, plimsoll/memcpy %.2f\n", mpi.median / ours.median,
                copied.median / ours.median);
    std::printf("low-latency round, %d tokens a rank: %.0f us (%.0f to %.0f)\n", kLowLatencyTokens,
                low.median * 1e6, low.least * 1e6, low.most * 1e6);
    std::printf("round trip of a flag between two threads: %.2f us\n", flag_round_trip_us());
    std::fflush(stdout);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  group->reset();
  MPI_Finalize();
  return 0;
}
