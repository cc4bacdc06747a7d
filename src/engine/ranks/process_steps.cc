#include "engine/ranks/process_steps.h"

#include <algorithm>
#include <functional>

#include "engine/schedule/step_bytes.h"

namespace plimsoll {

template <typename Stream>
void transfer(Stream& stream, LayerSlots& layer) {
  stream(layer.layer_idx, layer.slots);
}
template <typename Stream>
void transfer(Stream& stream, MoveReport& report) {
  stream(report.layer_idx, report.seconds, report.error);
}
template <typename Stream>
void transfer(Stream& stream, LayerOrders& layers) {
  stream(layers.prepare, layers.forget, layers.put_in_force);
}
template <typename Stream>
void transfer(Stream& stream, Regroup& regroup) {
  stream(regroup.epoch, regroup.members, regroup.num_physical_experts, regroup.physical_to_logical);
}
template <typename Stream>
void transfer(Stream& stream, Accusation& accusation) {
  stream(accusation.by, accusation.process, accusation.reason);
}

namespace {

// From process 0.
struct Order {
  enum class Kind : uint8_t { kStep, kMoves, kRestart, kEnd } kind = Kind::kEnd;
  LayerOrders layers;
  StepMode mode = StepMode::kNormal;
  bool computes = true;
  bool recording = false;
  std::vector<RankPlan> ranks;  // those of the process
  Regroup regroup;
};
template <typename Stream>
void transfer(Stream& stream, Order& order) {
  stream(order.kind, order.layers, order.mode, order.computes, order.recording, order.ranks,
         order.regroup);
}

// What came of it.
struct Report {
  bool failed = false;
  std::string error;
  std::vector<Accusation> dead;
  std::vector<RankResult> ranks;
  std::vector<RecordedPass> passes;  // [rank], while recording
  std::vector<MoveReport> moves;
};
template <typename Stream>
void transfer(Stream& stream, Report& report) {
  stream(report.failed, report.error, report.dead, report.ranks, report.passes, report.moves);
}

bool is_recording(const LocalRanks& ranks) {
  return ranks.recorder() != nullptr && ranks.recorder()->recording();
}

void append(std::vector<MoveReport>& all, std::vector<MoveReport> more) {
  std::ranges::move(more, std::back_inserter(all));
}

void accuse_dead(const LocalRanks& ranks, std::vector<Accusation>& dead) {
  for (int p : ranks.group().members()) {
    if (ranks.mesh().alive(p)) continue;
    const std::string sentence = ranks.mesh().death(p).message;
    dead.push_back({ranks.mesh().process(), p, sentence.substr(ranks.mesh().name(p).size() + 1)});
  }
}

void obey(LocalRanks& ranks, const LayerOrders& layers) {
  for (int layer_idx : layers.forget) ranks.moves().forget(layer_idx);
  for (const LayerSlots& next : layers.prepare) ranks.moves().prepare(next);
  for (int layer_idx : layers.put_in_force) ranks.moves().put_in_force(layer_idx);
}

Status run_step(LocalRanks& ranks, Order& order, Report& report) {
  const RankBlock block = ranks.group().local();
  StepPlan plan{.mode = order.mode, .computes = order.computes};
  plan.ranks.resize(ranks.num_ranks());
  std::ranges::move(order.ranks, plan.ranks.begin() + block.first);
  for (int r = block.first; ranks.recorder() != nullptr && r < block.first + block.count; ++r) {
    ranks.recorder()->rank(r).set_recording(order.recording);
  }
  StepResult result;
  if (Status status = ranks.run(plan, result); !status.ok()) return status;
  const auto first = result.ranks.begin() + block.first;
  report.ranks.assign(std::make_move_iterator(first), std::make_move_iterator(first + block.count));
  for (int r = block.first; order.recording && r < block.first + block.count; ++r) {
    report.passes.push_back(ranks.recorder()->rank(r).pass());
  }
  return ok_status();
}

Report follow(LocalRanks& ranks, Order& order) {
  Report report;
  Status status = ok_status();
  if (order.kind == Order::Kind::kRestart) {
    status = ranks.restart(order.regroup);
  } else {
    obey(ranks, order.layers);
    if (order.kind == Order::Kind::kStep) status = run_step(ranks, order, report);
    report.moves = ranks.moves().reports(order.kind == Order::Kind::kMoves);
  }
  if (!status.ok()) {
    report = {.failed = true, .error = status.error().message};
    accuse_dead(ranks, report.dead);
    if (order.kind == Order::Kind::kRestart) {
      const int self = ranks.mesh().process();
      report.dead.push_back({self, self, "cannot go on: " + report.error});
    }
  }
  return report;
}

using MakeOrder = std::function<Order(int member)>;
using TakeReport = std::function<void(int member, Report& report)>;

// Orders something of the other members, does `own` meanwhile, and hears them all out.
Status lead(LocalRanks& ranks,
            const std::vector<int32_t>& members,
            const MakeOrder& order_for,
            const std::function<Status()>& own,
            const TakeReport& take,
            Outcome& outcome) {
  outcome = {};
  Status status = ok_status();
  const auto note = [&](const Status& more) {
    if (status.ok()) status = more;
  };
  std::vector<int> asked;
  for (int p : members) {
    if (p == ranks.mesh().process()) continue;
    const Status sent = ranks.mesh().send(p, to_bytes(order_for(p)));
    if (sent.ok()) asked.push_back(p);
    note(sent);
  }
  if (status.ok()) {
    note(own());
  } else {
    ranks.group().give_up(status.error().message);  // others may wait for the ranks here
  }
  for (int p : asked) {
    const auto bytes = ranks.mesh().receive(p);
    Report report;
    if (!bytes.ok()) {
      note(bytes.error());
    } else if (!from_bytes(*bytes, report)) {
      note(unavailable(ranks.mesh().name(p) + " sent nonsense"));
    } else if (report.failed) {
      note(unavailable(ranks.mesh().name(p) + ": " + report.error));
      std::ranges::move(report.dead, std::back_inserter(outcome.dead));
    } else {
      for (MoveReport& move : report.moves) {
        if (!move.error.empty()) move.error = ranks.mesh().name(p) + ": " + move.error;
      }
      append(outcome.moves, std::move(report.moves));
      take(p, report);
    }
  }
  return status;
}

}  // namespace

Status lead_step(LocalRanks& ranks,
                 const LayerOrders& layers,
                 const StepPlan& plan,
                 StepResult& result,
                 Outcome& outcome) {
  const auto order_for = [&](int member) {
    const RankBlock block = ranks.group().block(member);
    const auto first = plan.ranks.begin() + block.first;
    return Order{.kind = Order::Kind::kStep,
                 .layers = layers,
                 .mode = plan.mode,
                 .computes = plan.computes,
                 .recording = plan.computes && is_recording(ranks),
                 .ranks = {first, first + block.count}};
  };
  std::vector<MoveReport> own_moves;
  const auto own = [&] {
    Status status = ranks.run(plan, result);
    own_moves = ranks.moves().reports();
    return status;
  };
  const auto take = [&](int member, Report& report) {
    const int first = ranks.group().block(member).first;
    std::ranges::move(report.ranks, result.ranks.begin() + first);
    for (size_t i = 0; i < report.passes.size(); ++i) {
      ranks.recorder()->rank(first + static_cast<int>(i)).pass() = std::move(report.passes[i]);
    }
  };
  Status status = lead(ranks, ranks.group().members(), order_for, own, take, outcome);
  append(outcome.moves, std::move(own_moves));
  return status;
}

Status lead_moves(LocalRanks& ranks, const LayerOrders& layers, Outcome& outcome) {
  const auto order_for = [&](int) { return Order{.kind = Order::Kind::kMoves, .layers = layers}; };
  std::vector<MoveReport> own_moves;
  const auto own = [&] {
    own_moves = ranks.moves().reports(true);
    return ok_status();
  };
  Status status = lead(
      ranks, ranks.group().members(), order_for, own, [](int, Report&) {}, outcome);
  append(outcome.moves, std::move(own_moves));
  return status;
}

Status lead_restart(LocalRanks& ranks, const Regroup& regroup, Outcome& outcome) {
  const auto order_for = [&](int) {
    return Order{.kind = Order::Kind::kRestart, .regroup = regroup};
  };
  const auto own = [&] { return ranks.restart(regroup); };
  return lead(
      ranks, regroup.members, order_for, own, [](int, Report&) {}, outcome);
}

void end_steps(ProcessMesh& mesh) {
  for (int p = 1; p < mesh.num_processes(); ++p) (void)mesh.send(p, to_bytes(Order{}));
}

Status follow_steps(LocalRanks& ranks, bool elastic) {
  while (true) {
    const auto bytes = ranks.mesh().receive(0);
    if (!bytes.ok()) return bytes.error();
    Order order;
    if (!from_bytes(*bytes, order)) return unavailable("process 0 is of another build");
    if (order.kind == Order::Kind::kEnd) return ok_status();
    const Report report = follow(ranks, order);
    if (Status status = ranks.mesh().send(0, to_bytes(report)); !status.ok()) return status;
    const bool over = !elastic || order.kind == Order::Kind::kRestart;
    if (report.failed && over) return unavailable(report.error);
  }
}

}  // namespace plimsoll
