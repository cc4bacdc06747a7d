// Processes that mpirun (or another launcher with PMIx) has started: who they are, and how they say
// the first word to each other. MPI carries nothing after that: with Open MPI 4.1 whoever waits in
// MPI for a process that has died waits for ever.
#pragma once

#include <memory>

#include "comm/process_mesh.h"

namespace plimsoll {

// How many processes the launcher started, from its environment; 1 without a launcher.
int launched_processes();

// Connects this process to the others of its job. Null where it is alone. Fails where this build
// has no MPI.
Result<std::unique_ptr<ProcessMesh>> join_launched(double timeout_seconds);

}  // namespace plimsoll
