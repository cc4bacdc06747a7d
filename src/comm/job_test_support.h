// A job whose processes are threads of a test: each with its own mesh, sockets and memory.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/process_group.h"

namespace plimsoll::testing {

struct Job {
  std::vector<std::string> hosts;  // [process]: those of equal name share memory
  int ranks_per_process = 1;
  double timeout_seconds = 20;

  int num_processes() const { return static_cast<int>(hosts.size()); }
  int num_ranks() const { return num_processes() * ranks_per_process; }
};

// Runs `body(mesh)` in every process of the job at once, connected to the others.
template <typename Body>
void on_all_processes(const Job& job, Body body) {
  std::barrier met(job.num_processes());
  std::vector<std::string> said(job.hosts.size());
  std::vector<std::jthread> processes;
  for (int p = 0; p < job.num_processes(); ++p) {
    processes.emplace_back([&, p] {
      const Bootstrap bootstrap = [&](const std::string& mine) -> Result<std::vector<std::string>> {
        said[p] = mine;
        met.arrive_and_wait();
        std::vector<std::string> all = said;
        met.arrive_and_wait();
        return all;
      };
      auto mesh = ProcessMesh::connect({.process = p,
                                        .num_processes = job.num_processes(),
                                        .timeout_seconds = job.timeout_seconds,
                                        .host = job.hosts[p]},
                                       bootstrap);
      ASSERT_TRUE(mesh.ok()) << mesh.error().message;
      body(**mesh);
    });
  }
}

// Runs `body(communicator)` on every rank of the group that this process holds.
template <typename Body>
void on_local_ranks(ProcessGroup& group, Body body) {
  std::vector<std::jthread> ranks;
  for (int i = 0; i < group.local().count; ++i) {
    ranks.emplace_back([&, r = group.local().first + i] { body(*group.connect(r)); });
  }
}

}  // namespace plimsoll::testing
