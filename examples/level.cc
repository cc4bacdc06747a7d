// Plans a placement for a recording, proves it, writes and reads it back, and routes one batch.
#include <plimsoll/expert_location.h>
#include <plimsoll/plan.h>
#include <plimsoll/route.h>

#include <cstdio>
#include <numeric>

using namespace plimsoll;

namespace {

int fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: level RECORDING PLACEMENT.json\n"), 2;
  const Result<LoadedCounts> load = load_expert_counts(argv[1]);
  if (!load.ok()) return fail(load.error());
  const int num_experts = load->history.num_logical_experts;
  constexpr int kRanks = 8;
  const Result<Plan> plan =
      make_plan(load->history, {.num_ranks = kRanks, .num_redundant_experts = 8});
  if (!plan.ok()) return fail(plan.error());
  const Status saved = save_placement(plan->placement, argv[2]);
  if (!saved.ok()) return fail(saved.error());
  const Result<ExpertMap> map = load_expert_map(argv[2]);
  if (!map.ok()) return fail(map.error());
  const Result<Placement> placement =
      make_placement(*map, load->history.num_layers, num_experts, kRanks);
  if (!placement.ok()) return fail(placement.error());

  const Result<RouteTables> tables = make_route_tables(*placement, 0, {.waterfill = true});
  if (!tables.ok()) return fail(tables.error());
  RouteWorkspace workspace(*tables);
  RoutePlan routed(*tables);
  std::vector<int32_t> counts(kRanks * num_experts, 0);
  counts[5] = 40;  // eight tokens of rank 0 choose expert 5 and four others
  for (int e = 0; e < 4; ++e) counts[e] += 8;
  const std::vector<int32_t> active = {40, 0, 0, 0, 0, 0, 0, 0};
  const Status done = route(*tables, counts, active, workspace, routed);
  if (!done.ok()) return fail(done.error());
  std::printf("%s\n%s\n", explain(plan->certificates[0]).c_str(), to_string(routed).c_str());
  return routed.max_load == routed.lower_bound ? 0 : 1;
}
