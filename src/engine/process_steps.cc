#include "engine/process_steps.h"

#include <algorithm>

#include "comm/process_group.h"
#include "engine/step_bytes.h"

namespace plimsoll {
namespace {

// From process 0. Without ranks: the job is done.
struct Order {
  StepMode mode = StepMode::kNormal;
  bool computes = true;
  bool recording = false;
  std::vector<RankPlan> ranks;  // those of the process
};
template <typename Stream>
void transfer(Stream& stream, Order& order) {
  stream(order.mode, order.computes, order.recording, order.ranks);
}

// What came of it.
struct Report {
  bool failed = false;
  std::string error;
  std::vector<RankResult> ranks;
  std::vector<RecordedPass> passes;  // [rank], while recording
};
template <typename Stream>
void transfer(Stream& stream, Report& report) {
  stream(report.failed, report.error, report.ranks, report.passes);
}

RankBlock block_of(const ProcessRanks& ranks, int process) {
  return ranks_of(process, ranks.mesh.num_processes(), ranks.team.num_ranks());
}

bool is_recording(const ProcessRanks& ranks) {
  return ranks.recorder != nullptr && ranks.recorder->recording();
}

Status send_order(const ProcessRanks& ranks, int process, const StepPlan& plan) {
  const RankBlock block = block_of(ranks, process);
  const auto first = plan.ranks.begin() + block.first;
  return ranks.mesh.send(process, to_bytes(Order{.mode = plan.mode,
                                                 .computes = plan.computes,
                                                 .recording = is_recording(ranks),
                                                 .ranks = {first, first + block.count}}));
}

Status take_report(const ProcessRanks& ranks, int process, StepResult& result) {
  const auto bytes = ranks.mesh.receive(process);
  if (!bytes.ok()) return bytes.error();
  Report report;
  if (!from_bytes(*bytes, report)) return unavailable(ranks.mesh.name(process) + " sent nonsense");
  if (report.failed) return unavailable(ranks.mesh.name(process) + ": " + report.error);
  const RankBlock block = block_of(ranks, process);
  std::ranges::move(report.ranks, result.ranks.begin() + block.first);
  for (size_t i = 0; i < report.passes.size(); ++i) {
    ranks.recorder->rank(block.first + static_cast<int>(i)).pass() = std::move(report.passes[i]);
  }
  return ok_status();
}

Report run_order(const ProcessRanks& ranks, Order order) {
  const RankBlock block = block_of(ranks, ranks.mesh.process());
  StepPlan plan{.mode = order.mode, .computes = order.computes};
  plan.ranks.resize(ranks.team.num_ranks());
  std::ranges::move(order.ranks, plan.ranks.begin() + block.first);
  for (int r = block.first; ranks.recorder != nullptr && r < block.first + block.count; ++r) {
    ranks.recorder->rank(r).set_recording(order.recording);
  }
  StepResult result;
  if (Status status = ranks.team.run(plan, result); !status.ok()) {
    return {.failed = true, .error = status.error().message};
  }
  Report report;
  const auto first = result.ranks.begin() + block.first;
  report.ranks.assign(std::make_move_iterator(first), std::make_move_iterator(first + block.count));
  for (int r = block.first; order.recording && r < block.first + block.count; ++r) {
    report.passes.push_back(ranks.recorder->rank(r).pass());
  }
  return report;
}

}  // namespace

Status lead_step(const ProcessRanks& ranks, const StepPlan& plan, StepResult& result) {
  for (int p = 1; p < ranks.mesh.num_processes(); ++p) {
    if (Status status = send_order(ranks, p, plan); !status.ok()) return status;
  }
  Status status = ranks.team.run(plan, result);
  for (int p = 1; p < ranks.mesh.num_processes(); ++p) {
    Status reported = take_report(ranks, p, result);
    if (status.ok()) status = std::move(reported);
  }
  return status;
}

Status follow_steps(const ProcessRanks& ranks) {
  while (true) {
    const auto bytes = ranks.mesh.receive(0);
    if (!bytes.ok()) return bytes.error();
    Order order;
    if (!from_bytes(*bytes, order)) return unavailable("process 0 is of another build");
    if (order.ranks.empty()) return ok_status();
    const Report report = run_order(ranks, std::move(order));
    if (Status status = ranks.mesh.send(0, to_bytes(report)); !status.ok()) return status;
    if (report.failed) return unavailable(report.error);
  }
}

void end_steps(ProcessMesh& mesh) {
  for (int p = 1; p < mesh.num_processes(); ++p) (void)mesh.send(p, to_bytes(Order{}));
}

}  // namespace plimsoll
