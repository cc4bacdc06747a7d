// How much state the running sequences may hold: --max-total-tokens and --max-state-memory-mib.
#pragma once

#include "engine/options.h"
#include "plimsoll/result.h"

namespace plimsoll {

// Fills in the limits of a rank's share. Where a share is smaller than the model's context, the
// longest sequence is what fits, and a note says so. Fails where not even a short one does.
Status limit_state(const EngineOptions& options, const ModelConfig& config, EngineSetup& setup);

}  // namespace plimsoll
