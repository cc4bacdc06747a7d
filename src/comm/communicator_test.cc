// What every kind of communicator promises: ranks that are threads, processes of one host, and
// processes of several.
#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <thread>

#include "comm/job_test_support.h"
#include "comm/thread_group.h"

namespace plimsoll {
namespace {

using testing::Job;

// No hosts: a ThreadGroup.
void on_all_ranks(const Job& job, const std::function<void(Communicator&)>& body) {
  if (job.hosts.empty()) {
    ThreadGroup group(job.ranks_per_process);
    std::vector<std::jthread> threads;
    for (int r = 0; r < group.num_ranks(); ++r) {
      threads.emplace_back([&, r] { body(*group.connect(r)); });
    }
    return;
  }
  testing::on_all_processes(job, [&](ProcessMesh& mesh) {
    auto group = ProcessGroup::create(mesh, job.num_ranks());
    ASSERT_TRUE(group.ok()) << group.error().message;
    testing::on_local_ranks(**group, body);
    (void)mesh.share(std::vector<std::byte>{});  // who leaves earlier fails those that still wait
  });
}

// For example: hosts_aabb_2_ranks_each.
std::string name_of(const ::testing::TestParamInfo<Job>& info) {
  if (info.param.hosts.empty()) return "threads_" + std::to_string(info.param.ranks_per_process);
  std::string hosts;
  for (const std::string& host : info.param.hosts) hosts += host;
  return "hosts_" + hosts + "_" + std::to_string(info.param.ranks_per_process) + "_ranks_each";
}

class CommunicatorTest : public ::testing::TestWithParam<Job> {};

TEST_P(CommunicatorTest, GathersEveryRanksIntegers) {
  on_all_ranks(GetParam(), [](Communicator& comm) {
    std::vector<int32_t> all(2 * comm.num_ranks());
    for (int round = 0; round < 100; ++round) {
      const int32_t mine[2] = {comm.rank(), round};
      ASSERT_TRUE(comm.all_gather(mine, all).ok());
      for (int r = 0; r < comm.num_ranks(); ++r) {
        EXPECT_EQ(all[2 * r], r);
        EXPECT_EQ(all[2 * r + 1], round);
      }
      ASSERT_TRUE(comm.all_gather({}, {}).ok());  // all have read: `mine` may go
    }
  });
}

// Messages of all sizes, from memory that ranks share (even rounds) and from other memory (odd).
TEST_P(CommunicatorTest, DeliversMessagesOfAnySizeToEveryRank) {
  on_all_ranks(GetParam(), [](Communicator& comm) {
    const int num_ranks = comm.num_ranks();
    constexpr int kMost = 5000;
    std::vector<SendBuffer> shared(num_ranks);
    std::vector<std::vector<int32_t>> own(num_ranks, std::vector<int32_t>(kMost));
    const auto length = [](int from, int to, int round) {
      return (from + to + round) % 4 * (round % 7 == 0 ? kMost / 4 : 1);
    };
    std::vector<Bytes> outgoing(num_ranks), incoming(num_ranks);
    for (int round = 0; round < 100; ++round) {
      for (int to = 0; to < num_ranks; ++to) {
        std::byte* shared_bytes = shared[to].reserve(comm, kMost * sizeof(int32_t));
        auto* numbers = round % 2 == 0 ? reinterpret_cast<int32_t*>(shared_bytes) : own[to].data();
        const int count = length(comm.rank(), to, round);
        for (int i = 0; i < count; ++i) numbers[i] = 10000 * comm.rank() + 100 * to + round + i;
        outgoing[to] = std::as_bytes(std::span(numbers, count));
      }
      ASSERT_TRUE(comm.all_to_all(outgoing, incoming).ok());
      for (int from = 0; from < num_ranks; ++from) {
        const int count = length(from, comm.rank(), round);
        ASSERT_EQ(incoming[from].size(), count * sizeof(int32_t));
        for (int i = 0; i < count; ++i) {
          int32_t value;
          std::memcpy(&value, incoming[from].data() + i * sizeof value, sizeof value);
          ASSERT_EQ(value, 10000 * from + 100 * comm.rank() + round + i);
        }
      }
      ASSERT_TRUE(comm.all_gather({}, {}).ok());  // all have read: the buffers are ours again
    }
  });
}

TEST_P(CommunicatorTest, FailsInsteadOfWaitingForARankThatLeft) {
  on_all_ranks(GetParam(), [](Communicator& comm) {
    if (comm.rank() == 1) return comm.leave();
    std::vector<int32_t> all(comm.num_ranks());
    const int32_t mine[1] = {comm.rank()};
    EXPECT_FALSE(comm.all_gather(mine, all).ok());
    std::vector<Bytes> outgoing(comm.num_ranks()), incoming(comm.num_ranks());
    EXPECT_FALSE(comm.all_to_all(outgoing, incoming).ok());
    comm.leave();
  });
}

// Processes 1 and 3 of five die while the others wait for them in a collective.
TEST(ProcessGroup, GoesOnWithoutProcessesThatDied) {
  const Job job{{"a", "a", "b", "a", "b"}, 2};
  std::barrier all_gathered(job.num_ranks());
  testing::on_all_processes(job, [&](ProcessMesh& mesh) {
    auto group = ProcessGroup::create(mesh, job.num_ranks());
    ASSERT_TRUE(group.ok()) << group.error().message;
    const auto gather = [](Communicator& comm) {
      std::vector<int32_t> all(comm.num_ranks());
      const int32_t mine[1] = {comm.rank()};
      const Status status = comm.all_gather(mine, all);
      if (!status.ok()) return status;
      for (int r = 0; r < comm.num_ranks(); ++r) EXPECT_EQ(all[r], r);
      return comm.all_gather({}, {});  // all have read: `mine` may go
    };
    std::vector<int> members = {0, 1, 2, 3, 4};
    const auto meet = [&] {
      for (int p : members) {
        if (p == mesh.process()) continue;
        ASSERT_TRUE(mesh.send(p, {}).ok());
        ASSERT_TRUE(mesh.receive(p).ok());
      }
    };
    uint32_t epoch = 0;
    for (const int dying : {1, 3}) {
      testing::on_local_ranks(**group, [&](Communicator& comm) {
        EXPECT_TRUE(gather(comm).ok());
        all_gathered.arrive_and_wait();  // a death fails what is under way
        if (mesh.process() == dying) return all_gathered.arrive_and_drop();
        ASSERT_FALSE(gather(comm).ok());
        comm.leave();
      });
      if (mesh.process() == dying) return;
      std::erase(members, dying);
      meet();  // all have left the collective
      (*group)->restart(++epoch, members);
      EXPECT_EQ((*group)->num_ranks(), 2 * static_cast<int>(members.size()));
      meet();  // all have begun anew
    }
    testing::on_local_ranks(**group, [&](Communicator& comm) {
      for (int round = 0; round < 50; ++round) ASSERT_TRUE(gather(comm).ok());
    });
    meet();
  });
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         CommunicatorTest,
                         ::testing::Values(Job{{}, 5},
                                           Job{{"a"}, 2},
                                           Job{{"a", "a", "a"}, 1},
                                           Job{{"a", "a"}, 3},
                                           Job{{"a", "b"}, 1},
                                           Job{{"a", "a", "b", "b"}, 2}),
                         name_of);

}  // namespace
}  // namespace plimsoll
