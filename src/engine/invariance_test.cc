// The answer to a prompt has the same bits at any EP size, placement, redundancy, dispatch mode,
// Waterfill setting, chunking and batch mix, and while placements change between steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include "engine/engine.h"
#include "model/checkpoint/golden.h"

namespace plimsoll {
namespace {

const std::string kSource = PLIMSOLL_SOURCE_DIR;

uint64_t splitmix(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

template <typename T>
T pick(uint64_t& random, std::initializer_list<T> choices) {
  return *(choices.begin() + splitmix(random) % choices.size());
}

// A layer's slots with every expert somewhere and the redundant ones anywhere.
std::vector<int32_t> random_slots(int num_experts, int num_physical, uint64_t& random) {
  std::vector<int32_t> slots(num_physical);
  for (int p = 0; p < num_physical; ++p) {
    const auto e = static_cast<uint64_t>(p);
    slots[p] = static_cast<int32_t>((p < num_experts ? e : splitmix(random)) % num_experts);
  }
  for (int p = num_physical - 1; p > 0; --p) {
    std::swap(slots[p], slots[splitmix(random) % (p + 1)]);
  }
  return slots;
}

// A placement of such layers, as inline JSON.
std::string random_placement(const ModelConfig& config, int num_physical, uint64_t& random) {
  std::string json = "{\"physical_to_logical_map\":[";
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    json += l ? ",[" : "[";
    const char* comma = "";
    for (const int32_t slot : random_slots(config.n_routed_experts, num_physical, random)) {
      json += comma + std::to_string(slot);
      comma = ",";
    }
    json += "]";
  }
  return json + "]}";
}

// Another placement for every layer, in force from the next step on.
void switch_all_layers(Engine& engine, uint64_t& random) {
  const Placement& p = engine.placement();
  for (int l = 0; l < p.num_layers; ++l) {
    const auto slots = random_slots(p.num_logical_experts, p.num_physical_experts, random);
    const Status status = engine.switch_layer(l, slots);
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
}

struct Answer {
  std::vector<float> logits, nll;
  std::vector<int32_t> tokens;
  bool operator==(const Answer&) const = default;
};

struct Trial {
  EngineOptions options;
  bool together = true;            // all prompts at once, or one after the other
  bool switch_placements = false;  // before every step
  float temperature = 0;
};

std::string describe(const Trial& trial) {
  const EngineOptions& o = trial.options;
  return "ep " + std::to_string(o.ep_size) + ", redundant " +
         std::to_string(o.ep_num_redundant_experts) + ", backend " + o.moe_a2a_backend + ", mode " +
         o.deepep_mode + ", dispatch " + o.ep_dispatch_algorithm + ", waterfill " +
         std::to_string(o.enable_waterfill) + ", jit " + std::to_string(o.enable_jit_experts) +
         ", chunk " + std::to_string(o.chunked_prefill_size) + ", together " +
         std::to_string(trial.together) + ", switching " + std::to_string(trial.switch_placements) +
         ", location " + o.init_expert_location.substr(0, 60);
}

// The answers of all prompts under one trial's options.
std::map<int64_t, Answer> run(const Trial& trial, const std::vector<GoldenPrompt>& prompts) {
  const auto engine = Engine::create(trial.options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  std::map<int64_t, Answer> answers;
  if (!engine.ok()) return answers;
  std::vector<RequestUpdate> updates;
  uint64_t random = 5;
  const auto drain = [&] {
    while (!(*engine)->idle()) {
      if (trial.switch_placements) switch_all_layers(**engine, random);
      const Status status = (*engine)->step(updates);
      ASSERT_TRUE(status.ok()) << status.error().message;
    }
  };
  for (size_t i = 0; i < prompts.size(); ++i) {
    Request request{.id = static_cast<int64_t>(i),
                    .prompt = prompts[i].input_ids,
                    .max_tokens = 12,
                    .ignore_eos = true,
                    .sampling = {.temperature = trial.temperature, .seed = 11 + i},
                    .score_prompt = true,
                    .logits_positions = prompts[i].logits_positions};
    EXPECT_TRUE((*engine)->submit(std::move(request)).ok());
    if (!trial.together) drain();
  }
  drain();
  for (const RequestUpdate& update : updates) {
    Answer& answer = answers[update.request_id];
    const SegmentResult& result = update.result;
    answer.logits.insert(answer.logits.end(), result.logits.begin(), result.logits.end());
    answer.nll.insert(answer.nll.end(), result.nll.begin(), result.nll.end());
    if (update.has_token) answer.tokens.push_back(result.next.token);
  }
  return answers;
}

Trial random_trial(const std::string& model_dir, const ModelConfig& config, uint64_t& random) {
  Trial trial{.together = pick(random, {true, false}),
              .switch_placements = pick(random, {true, false})};
  EngineOptions& o = trial.options;
  o.model_dir = model_dir;
  o.pin_ranks = false;
  o.ep_size = pick(random, {1, 2, 4, 8});
  o.ep_num_redundant_experts = pick(random, {0, 8, config.n_routed_experts});
  o.moe_a2a_backend = pick(random, {"deepep", "deepep", "deepep", "none"});
  o.deepep_mode = pick(random, {"auto", "normal", "low_latency"});
  o.ep_dispatch_algorithm = pick(random, {"exact", "exact", "static", "dynamic"});
  o.enable_waterfill = o.moe_a2a_backend == "deepep" && o.ep_dispatch_algorithm == "exact" &&
                       pick(random, {true, false});
  o.enable_jit_experts = o.moe_a2a_backend == "deepep" && o.ep_dispatch_algorithm == "exact" &&
                         pick(random, {true, false});
  o.jit_expert_slots = pick(random, {1, 2, 5});
  o.jit_tolerance = pick(random, {0.0, 0.01});
  o.chunked_prefill_size = pick(random, {7, 64, 1000});
  if (pick(random, {true, false})) {
    o.init_expert_location =
        random_placement(config, config.n_routed_experts + o.ep_num_redundant_experts, random);
  }
  return trial;
}

void check_invariance(const std::string& model_dir,
                      const std::string& golden,
                      size_t max_prompt_tokens,
                      int num_trials) {
  const auto config = load_config(model_dir);
  ASSERT_TRUE(config.ok());
  auto prompts = load_golden(golden, *config);
  ASSERT_TRUE(prompts.ok());
  std::erase_if(*prompts, [&](const GoldenPrompt& prompt) {
    return prompt.input_ids.size() > max_prompt_tokens;
  });
  for (float temperature : {0.0f, 0.8f}) {
    Trial plain{.temperature = temperature};
    plain.options.model_dir = model_dir;
    const std::map<int64_t, Answer> expected = run(plain, *prompts);
    EXPECT_EQ(expected.size(), prompts->size());
    uint64_t random = 2026;
    for (int i = 0; i < num_trials; ++i) {
      Trial trial = random_trial(model_dir, *config, random);
      trial.temperature = temperature;
      EXPECT_TRUE(run(trial, *prompts) == expected) << describe(trial);
    }
  }
}

TEST(Invariance, TinyModel) {
  check_invariance(kSource + "/testdata/tiny-v4", kSource + "/testdata/tiny-v4/golden.safetensors",
                   1000, 20);
}

TEST(Invariance, DemoModel) {
  check_invariance(kSource + "/demo/model", kSource + "/demo/golden.safetensors", 350, 6);
}

TEST(Invariance, RanksThatDoNotDivideTheExpertsTakeRedundantOnes) {
  const std::string model_dir = kSource + "/demo/model";
  const auto config = load_config(model_dir);
  auto prompts = load_golden(kSource + "/demo/golden.safetensors", *config);
  prompts->resize(3);
  Trial plain, three;
  plain.options.model_dir = three.options.model_dir = model_dir;
  three.options.ep_size = 3;
  three.options.ep_num_redundant_experts = 8;
  EXPECT_TRUE(run(plain, *prompts) == run(three, *prompts));
}

// What a recording of `mode` counted, and its files, while or without placements changing.
std::vector<Recording> record(const std::string& mode, bool switch_placements) {
  const auto engine = Engine::create({.model_dir = kSource + "/testdata/tiny-v4",
                                      .ep_size = 2,
                                      .ep_num_redundant_experts = 2,
                                      .enable_waterfill = true,
                                      .expert_distribution_recorder_mode = mode,
                                      .pin_ranks = false});
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  EXPECT_TRUE((*engine)->start_recording().ok());
  for (int64_t id = 0; id < 4; ++id) {
    EXPECT_TRUE((*engine)->submit({.id = id, .prompt = {1, 2, 3, 4, 5}, .ignore_eos = true}).ok());
  }
  uint64_t random = 3;
  std::vector<RequestUpdate> updates;
  while (!(*engine)->idle()) {
    if (switch_placements) switch_all_layers(**engine, random);
    EXPECT_TRUE((*engine)->step(updates).ok());
  }
  const std::string folder = testing::TempDir() + "/switching_" + mode;
  const auto paths = (*engine)->dump_recording(folder);
  EXPECT_TRUE(paths.ok());
  std::vector<Recording> recordings;
  for (const std::string& path : *paths) {
    recordings.push_back(*read_recording(path));
    EXPECT_EQ(recordings.back().info->placement.physical_to_logical,
              (*engine)->placement().physical_to_logical);
  }
  std::filesystem::remove_all(folder);
  return recordings;
}

TEST(Recording, CountsLogicalExpertsWhilePlacementsChange) {
  for (const std::string mode : {"stat", "per_pass", "per_token"}) {
    const std::vector<Recording> still = record(mode, false);
    const std::vector<Recording> switching = record(mode, true);
    ASSERT_EQ(still.size(), switching.size());
    EXPECT_NE(still.front().info->placement.physical_to_logical,
              switching.front().info->placement.physical_to_logical);
    for (size_t i = 0; i < still.size(); ++i) {
      ASSERT_EQ(still[i].passes.size(), switching[i].passes.size());
      ASSERT_GT(still[i].passes.size(), 10u);
      for (size_t p = 0; p < still[i].passes.size(); ++p) {
        EXPECT_EQ(still[i].passes[p].counts, switching[i].passes[p].counts);
        EXPECT_EQ(still[i].passes[p].topk_ids, switching[i].passes[p].topk_ids);
      }
    }
  }
}

TEST(Engine, RefusesToSwitchToWhatIsNoPlacement) {
  const auto engine = Engine::create(
      {.model_dir = kSource + "/testdata/tiny-v4", .ep_size = 2, .pin_ranks = false});
  ASSERT_TRUE(engine.ok());
  const std::vector<int32_t> before = (*engine)->placement().physical_to_logical;
  std::vector<int32_t> slots((*engine)->placement().num_physical_experts, 0);
  EXPECT_NE((*engine)->switch_layer(0, slots).error().message.find("no slot for expert 1"),
            std::string::npos);
  slots.pop_back();
  EXPECT_FALSE((*engine)->switch_layer(0, slots).ok());
  EXPECT_FALSE((*engine)->switch_layer(99, (*engine)->placement().layer(0)).ok());
  EXPECT_EQ((*engine)->placement().physical_to_logical, before);
}

}  // namespace
}  // namespace plimsoll
