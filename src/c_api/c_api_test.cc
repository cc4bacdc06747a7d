// The C face says what the C++ one does, and refuses what a C caller may get wrong. That it is C is
// tested by tests/install.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "plimsoll/expert_location.h"
#include "plimsoll/plan.h"
#include "plimsoll/plimsoll.h"
#include "plimsoll/route.h"

namespace plimsoll {
namespace {

const char* const kRecording =
    PLIMSOLL_SOURCE_DIR "/testdata/recorder-files/expert_distribution_recorder_1780000000.123.pt";

std::string temporary(const std::string& name) {
  return (std::filesystem::path(testing::TempDir()) / name).string();
}

plimsoll_load* read_load() {
  plimsoll_load* load = nullptr;
  EXPECT_EQ(plimsoll_load_read(&kRecording, 1, &load), PLIMSOLL_OK) << plimsoll_error_message();
  return load;
}

TEST(CApi, LoadsAreReadAndWritten) {
  plimsoll_load* load = read_load();
  const auto expected = load_expert_counts(kRecording);
  const std::vector<int64_t>& counts = expected->history.counts;
  EXPECT_EQ(plimsoll_load_num_steps(load), expected->history.num_steps);
  EXPECT_EQ(plimsoll_load_num_layers(load), 6);
  EXPECT_EQ(plimsoll_load_num_experts(load), 64);
  EXPECT_TRUE(std::equal(counts.begin(), counts.end(), plimsoll_load_counts(load)));
  const std::string path = temporary("c_api.pt");
  ASSERT_EQ(plimsoll_load_write(load, path.c_str()), PLIMSOLL_OK) << plimsoll_error_message();
  EXPECT_EQ(load_expert_counts(path)->history.counts, counts);
  plimsoll_load_free(load);
}

TEST(CApi, PlansForADispatchByName) {
  plimsoll_load* load = read_load();
  plimsoll_plan_options options;
  plimsoll_plan_options_init(&options);
  options.num_ranks = 8;
  options.num_redundant_experts = 8;
  options.dispatch = "even";
  plimsoll_plan* plan = nullptr;
  ASSERT_EQ(plimsoll_plan_make(load, &options, &plan), PLIMSOLL_OK) << plimsoll_error_message();
  const plimsoll_certificate& certificate = *plimsoll_plan_certificates(plan);
  EXPECT_EQ(certificate.max_load, certificate.max_load_even);
  plimsoll_plan_free(plan);
  options.dispatch = "nearest";
  EXPECT_NE(plimsoll_plan_make(load, &options, &plan), PLIMSOLL_OK);
  EXPECT_NE(std::string(plimsoll_error_message()).find("it must be exact, even"),
            std::string::npos);
  plimsoll_load_free(load);
}

TEST(CApi, PlansAreThoseOfCpp) {
  plimsoll_load* load = read_load();
  plimsoll_plan_options options;
  plimsoll_plan_options_init(&options);
  options.num_ranks = 8;
  options.num_redundant_experts = 8;
  plimsoll_plan* plan = nullptr;
  ASSERT_EQ(plimsoll_plan_make(load, &options, &plan), PLIMSOLL_OK) << plimsoll_error_message();
  const auto history = load_expert_counts(kRecording)->history;
  const auto expected = make_plan(history, {.num_ranks = 8, .num_redundant_experts = 8});
  const plimsoll_placement* placement = plimsoll_plan_placement(plan);
  EXPECT_TRUE(std::ranges::equal(expected->placement.physical_to_logical,
                                 std::span(plimsoll_placement_map(placement), 6 * 72)));
  std::vector<plimsoll_certificate> certificates(6);
  ASSERT_EQ(plimsoll_certify(placement, load, certificates.data()), PLIMSOLL_OK);
  for (int l = 0; l < 6; ++l) {
    const plimsoll_certificate& certificate = plimsoll_plan_certificates(plan)[l];
    EXPECT_EQ(certificate.max_load, expected->certificates[l].max_load);
    EXPECT_EQ(certificate.lower_bound, expected->certificates[l].lower_bound);
    EXPECT_EQ(certificate.max_load, certificates[l].max_load);
    EXPECT_EQ(plimsoll_plan_explain(plan, l), explain(expected->certificates[l]));
  }
  EXPECT_EQ(plimsoll_plan_explain(plan, 6), nullptr);

  options.in_force = placement;
  options.max_moved_experts = 0;
  plimsoll_plan* again = nullptr;
  ASSERT_EQ(plimsoll_plan_make(load, &options, &again), PLIMSOLL_OK) << plimsoll_error_message();
  EXPECT_EQ(plimsoll_plan_moved_experts(again), 0);
  plimsoll_plan_free(again);
  plimsoll_plan_free(plan);
  plimsoll_load_free(load);
}

TEST(CApi, PlacementsAreReadAndWritten) {
  const std::vector<int32_t> map = {0, 1, 2, 0, 2, 1, 0, 1};
  plimsoll_placement* placement = nullptr;
  ASSERT_EQ(plimsoll_placement_create(2, 3, 4, 2, map.data(), &placement), PLIMSOLL_OK);
  for (const char* name : {"p.json", "p.pt", "p.yaml", "p.npy"}) {
    const std::string path = temporary(name);
    ASSERT_EQ(plimsoll_placement_write(placement, path.c_str(), 0), PLIMSOLL_OK);
    plimsoll_placement* read = nullptr;
    ASSERT_EQ(plimsoll_placement_read(path.c_str(), 2, 3, 2, &read), PLIMSOLL_OK)
        << plimsoll_error_message();
    EXPECT_EQ(plimsoll_placement_num_slots(read), 4);
    EXPECT_TRUE(std::ranges::equal(map, std::span(plimsoll_placement_map(read), 8)));
    plimsoll_placement_free(read);
  }
  plimsoll_placement_free(placement);
}

TEST(CApi, BatchesAreLevelAndDealtOut) {
  const std::vector<int32_t> map = {0, 1, 2, 3, 0, 1};
  plimsoll_placement* placement = nullptr;
  ASSERT_EQ(plimsoll_placement_create(1, 4, 6, 2, map.data(), &placement), PLIMSOLL_OK);
  plimsoll_route_options options;
  plimsoll_route_options_init(&options);
  options.waterfill = PLIMSOLL_WATERFILL_LEVEL;
  plimsoll_router* router = nullptr;
  ASSERT_EQ(plimsoll_router_create(placement, 0, &options, &router), PLIMSOLL_OK);
  plimsoll_placement_free(placement);  // a router keeps what it needs
  // Four tokens of rank 0: {0, 1}, {0, 1}, {0, 2}, {0, 3}.
  const std::vector<int32_t> counts = {4, 2, 1, 1, 0, 0, 0, 0};
  const std::vector<int32_t> active = {4, 0};
  plimsoll_routing routing;
  ASSERT_EQ(plimsoll_router_route(router, counts.data(), active.data(), &routing), PLIMSOLL_OK);
  EXPECT_EQ(routing.max_load, 6);
  EXPECT_EQ(routing.lower_bound, 6);
  EXPECT_EQ(routing.rank_load[0] + routing.rank_load[1], 12);
  const std::vector<int32_t> topk = {0, 1, 0, 1, 0, 2, 0, 3};
  std::vector<int32_t> physical(8);
  std::vector<int32_t> shared(4);
  ASSERT_EQ(plimsoll_router_assign(router, 0, topk.data(), 4, 2, physical.data(), shared.data()),
            PLIMSOLL_OK)
      << plimsoll_error_message();
  std::vector<int64_t> load(2);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(map[physical[i]], topk[i]);
    ++load[physical[i] / 3];
  }
  for (const int32_t rank : shared) ++load[rank];
  EXPECT_TRUE(std::ranges::equal(load, std::span(routing.rank_load, 2)));
  plimsoll_router_free(router);
}

TEST(CApi, SglangsWaterfillIsEnteredAfterwards) {
  const std::vector<int32_t> map = {0, 1};
  plimsoll_placement* placement = nullptr;
  ASSERT_EQ(plimsoll_placement_create(1, 2, 2, 2, map.data(), &placement), PLIMSOLL_OK);
  plimsoll_route_options options;
  plimsoll_route_options_init(&options);
  options.waterfill = PLIMSOLL_WATERFILL_SGLANG;
  plimsoll_router* router = nullptr;
  ASSERT_EQ(plimsoll_router_create(placement, 0, &options, &router), PLIMSOLL_OK);
  plimsoll_placement_free(placement);
  const std::vector<int32_t> topk(100, 0);  // all of rank 0, and all choose its expert
  const std::vector<int32_t> counts = {100, 0, 0, 0}, active = {100, 0};
  plimsoll_routing routing;
  ASSERT_EQ(plimsoll_router_route(router, counts.data(), active.data(), &routing), PLIMSOLL_OK);
  EXPECT_EQ(routing.max_load, 200);
  std::vector<int32_t> physical(100), shared(100);
  ASSERT_EQ(plimsoll_router_assign(router, 0, topk.data(), 100, 1, physical.data(), shared.data()),
            PLIMSOLL_OK);
  ASSERT_EQ(plimsoll_router_enter_shared_ranks(router, 0, shared.data(), 100, &routing),
            PLIMSOLL_OK)
      << plimsoll_error_message();
  // The waterline is at (100 + 100) / 2: rank 0 is at it, and every token draws rank 1.
  EXPECT_EQ(routing.max_load, 100);
  EXPECT_EQ(routing.shared[1], 100);
  EXPECT_EQ(plimsoll_router_enter_shared_ranks(router, 0, shared.data(), 99, &routing),
            PLIMSOLL_INVALID_ARGUMENT);
  plimsoll_router_free(router);
}

TEST(CApi, ThePublishedAlgorithmsFillTheCallersArrays) {
  const std::vector<float> weight = {90, 132, 40, 61};
  const std::vector<int64_t> steps = {90, 132, 40, 61};
  plimsoll_eplb_sizes sizes = {1, 4, 6, 2, 1, 1};
  std::vector<int32_t> map(6), replica(6), count(4);
  ASSERT_EQ(
      plimsoll_eplb_deepseek(&sizes, weight.data(), 0, map.data(), replica.data(), count.data()),
      PLIMSOLL_OK);
  EXPECT_EQ(map, (std::vector<int32_t>{1, 3, 2, 1, 0, 0}));
  EXPECT_EQ(count, (std::vector<int32_t>{2, 2, 1, 1}));
  ASSERT_EQ(plimsoll_eplb_deepseek_vec(&sizes, steps.data(), 1, 0, map.data(), replica.data(),
                                       count.data()),
            PLIMSOLL_OK);
  EXPECT_EQ(std::accumulate(count.begin(), count.end(), 0), 6);
}

TEST(CApi, RefusalsHaveACodeAndAMessage) {
  const auto expect = [](plimsoll_code found, plimsoll_code wanted, const std::string& words) {
    EXPECT_EQ(found, wanted);
    EXPECT_NE(std::string(plimsoll_error_message()).find(words), std::string::npos)
        << plimsoll_error_message();
  };
  plimsoll_load* load = nullptr;
  const char* const none = "/nowhere/none.pt";
  const char* const malicious = PLIMSOLL_SOURCE_DIR "/testdata/recorder-files/malicious.pt";
  const int64_t counts[] = {1, -1};
  const int32_t huge = std::numeric_limits<int32_t>::max();
  expect(plimsoll_load_read(&none, 1, &load), PLIMSOLL_IO, "/nowhere");
  expect(plimsoll_load_read(&malicious, 1, &load), PLIMSOLL_UNSUPPORTED, "nothing was executed");
  expect(plimsoll_load_read(nullptr, 1, &load), PLIMSOLL_INVALID_ARGUMENT, "paths");
  expect(plimsoll_load_read(&none, 0, &load), PLIMSOLL_INVALID_ARGUMENT, "no path");
  expect(plimsoll_load_create(1, 1, 2, counts, nullptr), PLIMSOLL_INVALID_ARGUMENT, "NULL");
  expect(plimsoll_load_create(1, 1, 2, counts, &load), PLIMSOLL_INVALID_ARGUMENT, "negative");
  expect(plimsoll_load_create(huge, huge, huge, counts, &load), PLIMSOLL_INVALID_ARGUMENT, "fits");
  expect(plimsoll_load_create(0, 1, 2, counts, &load), PLIMSOLL_INVALID_ARGUMENT, "positive");
  EXPECT_EQ(load, nullptr);

  const int32_t map[] = {0, 1};
  plimsoll_placement* placement = nullptr;
  ASSERT_EQ(plimsoll_placement_create(1, 2, 2, 2, map, &placement), PLIMSOLL_OK);
  plimsoll_route_options options;
  plimsoll_route_options_init(&options);
  plimsoll_router* router = nullptr;
  expect(plimsoll_router_create(placement, 1, &options, &router), PLIMSOLL_INVALID_ARGUMENT,
         "layer 1");
  options.dispatch = 7;
  expect(plimsoll_router_create(placement, 0, &options, &router), PLIMSOLL_INVALID_ARGUMENT,
         "enums");
  plimsoll_route_options_init(&options);
  ASSERT_EQ(plimsoll_router_create(placement, 0, &options, &router), PLIMSOLL_OK);
  int32_t ids[] = {0};
  expect(plimsoll_router_assign(router, 0, ids, 1, 1, ids, ids), PLIMSOLL_INVALID_ARGUMENT, "");
  expect(plimsoll_router_assign(router, 0, ids, 1, 1, ids, nullptr), PLIMSOLL_INVALID_ARGUMENT,
         "shared_ranks");
  expect(plimsoll_router_assign(router, 0, nullptr, -1, 1, ids, ids), PLIMSOLL_INVALID_ARGUMENT,
         "num_tokens");
  plimsoll_router_free(router);
  plimsoll_placement_free(placement);
  plimsoll_load_free(nullptr);
  plimsoll_plan_free(nullptr);
}

}  // namespace
}  // namespace plimsoll
