// What processes that hold ranks do together: process 0 says what, the others follow and report.
// Every order is answered by one report, whatever happens, so that none is taken for another's.
#pragma once

#include <string>
#include <vector>

#include "engine/ranks/local_ranks.h"

namespace plimsoll {

// Changes of placement that process 0 has begun and tells the others with whatever it orders next.
struct LayerOrders {
  std::vector<LayerSlots> prepare;
  std::vector<int32_t> forget;        // layers that were to be prepared
  std::vector<int32_t> put_in_force;  // layers that all have prepared, before the step
};

// A process that another one holds dead, or itself unable to go on.
struct Accusation {
  int32_t by = 0;
  int32_t process = 0;
  std::string reason;  // "has died"
};

// What came of an order, of all processes.
struct Outcome {
  std::vector<MoveReport> moves;  // that have ended since the last order
  std::vector<Accusation> dead;   // where the order failed
};

// Of process 0. All fail, naming who, where any rank failed or any member is dead.
Status lead_step(LocalRanks& ranks,
                 const LayerOrders& layers,
                 const StepPlan& plan,
                 StepResult& result,
                 Outcome& outcome);
// Waits until all members have prepared their layers.
Status lead_moves(LocalRanks& ranks, const LayerOrders& layers, Outcome& outcome);
Status lead_restart(LocalRanks& ranks, const Regroup& regroup, Outcome& outcome);
// The others need not wait for another order.
void end_steps(ProcessMesh& mesh);

// Of the others: one order after the other until process 0 ends the job (ok) or is gone. Where a
// step fails process 0 may order a restart if the job is `elastic`; else that is the end.
Status follow_steps(LocalRanks& ranks, bool elastic);

}  // namespace plimsoll
