// The recorded traffic that replay and report work on, and the placements they compare.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "options/settings.h"
#include "plimsoll/replay.h"

namespace plimsoll {

struct RecordedCounts {
  LoadHistory history;
  int top_k = 0;
};

struct Traffic {
  std::variant<ExpertTrace, RecordedCounts> recorded;

  int num_layers() const;
  int num_logical_experts() const;
  LoadHistory history(int64_t batch_tokens) const;
  // `label` is what the progress line says.
  Result<Replay> replay(const std::string& label,
                        const Placement& placement,
                        const RouteOptions& route,
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

// "exact+waterfill" to the routing it names; the options table has checked it.
RouteOptions route_of(const std::string& policy, const ReplaySettings& settings);

}  // namespace plimsoll
