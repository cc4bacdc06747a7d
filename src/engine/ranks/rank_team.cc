#include "engine/ranks/rank_team.h"

#include <pthread.h>
#include <sched.h>

#include "engine/ranks/cpu_compute.h"
#include "engine/ranks/gpu_compute.h"

namespace plimsoll {
namespace {

// The cores this process may use.
std::vector<int> allowed_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

// Best effort: an unpinned rank is slower, not wrong.
void pin(std::jthread& thread, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

std::unique_ptr<RankCompute> make_compute(const ModelWeights& weights,
                                          const gpu::PackedModel* model) {
  if (model != nullptr) return std::make_unique<GpuCompute>(*model);
  return std::make_unique<CpuCompute>(weights);
}

}  // namespace

RankTeam::RankTeam(const ModelWeights& weights,
                   const gpu::PackedModel* model,
                   const MoeLayout& layout,
                   const MoeOptions& options,
                   Recorder* recorder,
                   bool pin_ranks,
                   ProcessGroup* processes)
    : local_(processes ? processes->local() : RankBlock{0, layout.placement.num_ranks}),
      group_(layout.placement.num_ranks),
      meeting_(local_.count + 1),
      statuses_(local_.count, ok_status()) {
  const std::vector<int> cores = allowed_cores();
  const int first_core = processes ? processes->first_host_rank() : 0;
  const int num_host_ranks = processes ? processes->num_host_ranks() : num_ranks();
  pin_ranks = pin_ranks && num_host_ranks <= static_cast<int>(cores.size());
  for (int r = local_.first; r < local_.first + local_.count; ++r) {
    communicators_.push_back(processes ? processes->connect(r) : group_.connect(r));
    workers_.push_back(std::make_unique<RankWorker>(weights.config, make_compute(weights, model),
                                                    *communicators_.back(), layout, options,
                                                    recorder ? &recorder->rank(r) : nullptr));
  }
  for (int i = 0; i < local_.count; ++i) {
    threads_.emplace_back([this, i] { serve(i); });
    if (pin_ranks) pin(threads_.back(), cores[first_core + i]);
  }
}

RankTeam::~RankTeam() {
  plan_ = nullptr;
  meeting_.arrive_and_wait();
}

size_t RankTeam::num_sequences() const {
  size_t sum = 0;
  for (const auto& worker : workers_) sum += worker->num_sequences();
  return sum;
}

Status RankTeam::run(const StepPlan& plan, StepResult& result) {
  plan_ = &plan;
  result_ = &result;
  result.balance = {};
  result.ranks.resize(num_ranks());
  meeting_.arrive_and_wait();
  meeting_.arrive_and_wait();
  for (const Status& status : statuses_) {
    if (!status.ok()) return status;
  }
  return ok_status();
}

void RankTeam::serve(int idx) {
  const int rank = local_.first + idx;
  Status& status = statuses_[idx];
  while (true) {
    meeting_.arrive_and_wait();
    if (plan_ == nullptr) return;
    // Every rank knows the whole routing; one of them writes it down.
    StepBalance* balance = rank == 0 ? &result_->balance : nullptr;
    if (!plan_->computes) {
      workers_[idx]->drop(plan_->ranks[rank].closed);
    } else if (status.ok()) {
      status = workers_[idx]->run(plan_->ranks[rank], plan_->mode, result_->ranks[rank], balance);
      if (!status.ok()) communicators_[idx]->leave();
    }
    meeting_.arrive_and_wait();
  }
}

}  // namespace plimsoll
