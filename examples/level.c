/* Plans a placement for a recording, proves it, writes it, and routes one batch: level.cc, in C. */
#include <plimsoll/plimsoll.h>
#include <stdio.h>
#include <stdlib.h>

#define NUM_RANKS 8

static int check(plimsoll_code code) {
  if (code != PLIMSOLL_OK) fprintf(stderr, "%s\n", plimsoll_error_message());
  return code == PLIMSOLL_OK;
}

/* Eight tokens of rank 0 choose expert 5 and four others, and 32 more choose expert 5. */
static int route_a_batch(const plimsoll_placement* placement) {
  const int num_experts = plimsoll_placement_num_experts(placement);
  const int32_t active[NUM_RANKS] = {40};
  int32_t* counts = calloc((size_t)NUM_RANKS * num_experts, sizeof *counts);
  plimsoll_route_options options;
  plimsoll_router* router = NULL;
  plimsoll_routing routing;
  int is_level = 0;
  plimsoll_route_options_init(&options);
  options.waterfill = PLIMSOLL_WATERFILL_LEVEL;
  if (counts && check(plimsoll_router_create(placement, 0, &options, &router))) {
    counts[5] = 40;
    for (int e = 0; e < 4; ++e) counts[e] = 8;
    if (check(plimsoll_router_route(router, counts, active, &routing))) {
      printf("fullest rank %lld, no routing has less than %lld\n", (long long)routing.max_load,
             (long long)routing.lower_bound);
      is_level = routing.max_load == routing.lower_bound;
    }
  }
  plimsoll_router_free(router);
  free(counts);
  return is_level;
}

int main(int argc, char** argv) {
  plimsoll_load* load = NULL;
  plimsoll_plan* plan = NULL;
  plimsoll_plan_options options;
  int done = 0;
  if (argc != 3) {
    fprintf(stderr, "usage: level RECORDING PLACEMENT.json\n");
    return 2;
  }
  plimsoll_plan_options_init(&options);
  options.num_ranks = NUM_RANKS;
  options.num_redundant_experts = 8;
  if (check(plimsoll_load_read((const char* const*)&argv[1], 1, &load)) &&
      check(plimsoll_plan_make(load, &options, &plan)) &&
      check(plimsoll_placement_write(plimsoll_plan_placement(plan), argv[2], 0))) {
    printf("plimsoll %s: %s\n", plimsoll_version(), plimsoll_plan_explain(plan, 0));
    done = route_a_batch(plimsoll_plan_placement(plan));
  }
  plimsoll_plan_free(plan);
  plimsoll_load_free(load);
  return done ? 0 : 1;
}
