// Starts an engine, runs requests through it to the end, measuring, and keeps what was recorded.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "requests/run_stats.h"

namespace plimsoll {

// Tells the user what the engine has to say before serving.
Result<std::unique_ptr<Engine>> create_engine(const EngineOptions& options);

// The same, and records from the start where a recorder mode was chosen.
Result<std::unique_ptr<Engine>> start_engine(const EngineOptions& options);

// Submits the requests in order, at most `concurrency` of them at a time, and steps until all are
// done; every update goes to `on_update` as it comes. Progress is shown under `label`, if any.
Result<RunStats> run_requests(Engine& engine,
                              std::vector<Request> requests,
                              int concurrency,
                              const std::string& label,
                              const std::function<void(RequestUpdate&)>& on_update);

// Writes what was recorded to `folder`, and returns the files' paths: none without a recorder.
Result<std::vector<std::string>> finish_recording(Engine& engine, const std::string& folder);

}  // namespace plimsoll
