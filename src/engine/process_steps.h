// One step on the ranks of all processes: process 0 says what to do and collects what came of it,
// the others follow.
#pragma once

#include "comm/process_mesh.h"
#include "engine/rank_team.h"

namespace plimsoll {

// What a step needs of its process. `recorder` may be null.
struct ProcessRanks {
  ProcessMesh& mesh;
  RankTeam& team;
  Recorder* recorder;
};

// Of process 0. Fails, naming who, where any rank failed or any process is dead.
Status lead_step(const ProcessRanks& ranks, const StepPlan& plan, StepResult& result);

// Of the others: one step after the other until process 0 ends the job (ok), or until a step fails.
Status follow_steps(const ProcessRanks& ranks);

// Of process 0: the others need not wait for another step.
void end_steps(ProcessMesh& mesh);

}  // namespace plimsoll
