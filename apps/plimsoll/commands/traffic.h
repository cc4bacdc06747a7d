// The recorded traffic that replay and report work on, and the placements they compare.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "commands/recorded_load.h"
#include "options/settings.h"
#include "plimsoll/replay.h"

namespace plimsoll {

struct RecordedCounts {
  LoadHistory history;
  int top_k = 0;
};

struct Traffic {
  std::variant<ExpertTrace, RecordedCounts> recorded;  // of the layers that are looked at
  LayerChoice layers;

  int num_layers() const;
  int num_logical_experts() const;
  LoadHistory history(int64_t batch_tokens) const;
  // `policy` as --policy has it; `label` is what the progress line says.
  Result<Replay> replay(const std::string& label,
                        const Placement& placement,
                        const std::string& policy,
                        const Settings& settings) const;
};

// Of --trace or --load, one of which must be given.
Result<Traffic> load_traffic(const Settings& settings);

struct NamedPlacement {
  std::string name;  // as given
  Placement placement;
};

// Those of --placement, for a model of so many layers and experts; or trivial.
Result<std::vector<NamedPlacement>> load_placements(const Settings& settings,
                                                    int num_layers,
                                                    int num_logical_experts);

// Whether a policy copies experts just in time.
bool copies_just_in_time(const std::string& policy);

}  // namespace plimsoll
