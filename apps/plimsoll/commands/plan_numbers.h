// What plan and report print of plans.
#pragma once

#include <vector>

#include "commands/recorded_load.h"
#include "options/settings.h"
#include "plimsoll/plan.h"

namespace plimsoll {

// What the options say of the placement to plan; --placement is the one in force, of which the
// options have the layers that are looked at.
Result<PlanOptions> plan_options(const Settings& settings, const RecordedLoad& recorded);
// That of all layers of the file; num_layers 0: none.
Result<Placement> placement_in_force(const Settings& settings, const RecordedLoad& recorded);

// Certificates of the experts in their order, with the copies of `planned` or, where the ranks
// divide them, none.
Result<std::vector<Certificate>> certify_trivial(const LoadHistory& load,
                                                 const Placement& planned,
                                                 const PlanOptions& options);

// Beside the placement, whose file holds nothing but what the engine's loader takes: x.json goes
// with x.certificate.json.
Status save_certificate(const std::string& json, const std::string& placement_file);

int64_t num_moved(const std::vector<int32_t>& moved_experts);  // [layers], all together

double max_over_mean(const Certificate& certificate);
double even_over_mean(const Certificate& certificate);  // an expert's tokens split evenly
double bound_over_mean(const Certificate& certificate);
double gap_of(const Certificate& certificate);

// Of the layers of which anything was recorded.
double mean_of(const std::vector<Certificate>& certificates, double (*value)(const Certificate&));

}  // namespace plimsoll
