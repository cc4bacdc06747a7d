// The recorded load that plan, report and replay work on, and the layers of it that they look at.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "options/settings.h"
#include "plimsoll/expert_location.h"

namespace plimsoll {

struct LayerChoice {
  std::vector<int32_t> rows;       // of the file that are looked at, ascending
  std::vector<int32_t> layer_ids;  // of all rows of the file, in the model
  std::vector<int32_t> chosen_ids() const;
};

struct RecordedLoad {
  LoadHistory load;  // of the chosen rows
  LayerChoice layers;
  std::optional<RecordingInfo> info;
};

// Of files as --load or --scenario name them. Layers that recorded nothing are left out, and said;
// --layers leaves out others. Fails where nothing is left.
Result<RecordedLoad> load_recorded(const std::vector<std::string>& paths, const Settings& settings);

// Which of so many layers --layers names, where it is given; their ids are those of --placement,
// where its file numbers as many layers.
Result<LayerChoice> choose_layers(const Settings& settings, int num_layers);

// Writes --out. Layers that were not looked at stay as in the placement in force (num_layers 0:
// none), where it has as many slots, or else are trivial; formats of MoE layers only leave them
// out.
Status save_planned(const Placement& planned,
                    const LayerChoice& layers,
                    const Placement& in_force,
                    const Settings& settings);

// "3-60", "0, 4-7"
std::string ranges_text(const std::vector<int32_t>& numbers);

// "2 of 16 copies share a rank with their twin, ..."; empty where none does.
std::string twins_text(const Placement& placement);

}  // namespace plimsoll
