// The GPU's code, run on the host, gives the CPU's answers, with the same bits however the work is
// spread; and states travel between the two.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/engine.h"
#include "model/checkpoint/golden.h"

namespace plimsoll {
namespace {

const std::string kSource = PLIMSOLL_SOURCE_DIR;

struct Answer {
  std::vector<float> logits, nll;
  std::vector<int32_t> tokens, expert_ids;
};

std::map<int64_t, Answer> run(const EngineOptions& options,
                              const std::vector<GoldenPrompt>& prompts) {
  const auto engine = Engine::create(options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  std::map<int64_t, Answer> answers;
  if (!engine.ok()) return answers;
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_TRUE((*engine)
                    ->submit({.id = static_cast<int64_t>(i),
                              .prompt = prompts[i].input_ids,
                              .max_tokens = 12,
                              .ignore_eos = true,
                              .score_prompt = true,
                              .return_expert_ids = true,
                              .logits_positions = prompts[i].logits_positions})
                    .ok());
  }
  std::vector<RequestUpdate> updates;
  while (!(*engine)->idle()) {
    const Status status = (*engine)->step(updates);
    EXPECT_TRUE(status.ok()) << status.error().message;
    if (!status.ok()) return answers;
  }
  for (const RequestUpdate& update : updates) {
    const SegmentResult& part = update.result;
    Answer& answer = answers[update.request_id];
    answer.logits.insert(answer.logits.end(), part.logits.begin(), part.logits.end());
    answer.nll.insert(answer.nll.end(), part.nll.begin(), part.nll.end());
    answer.expert_ids.insert(answer.expert_ids.end(), part.expert_ids.begin(),
                             part.expert_ids.end());
    if (update.has_token) answer.tokens.push_back(part.next.token);
  }
  EXPECT_TRUE((*engine)->drop_ended().ok());
  EXPECT_EQ((*engine)->num_held_sequences(), 0u);
  return answers;
}

// Whole prompts in one chunk, so that expert ids come in one order.
void expect_agreement(const std::string& model, const std::string& golden, size_t longest) {
  EngineOptions options{.model_dir = kSource + model, .device = "cuda-on-cpu"};
  options.chunked_prefill_size = 4096;
  const auto config = load_config(options.model_dir);
  auto prompts = load_golden(kSource + golden, *config);
  ASSERT_TRUE(prompts.ok());
  std::erase_if(*prompts, [&](const auto& p) { return p.input_ids.size() > longest; });
  ASSERT_FALSE(prompts->empty());
  const auto found = run(options, *prompts);
  options.device = "cpu";
  const auto cpu = run(options, *prompts);
  double sum = 0;
  size_t count = 0, other_ids = 0, num_ids = 0;
  for (const auto& [id, answer] : found) {
    const std::vector<float>& nll = (*prompts)[id].nll;
    ASSERT_EQ(answer.nll.size(), nll.size());
    for (size_t i = 0; i < nll.size(); ++i, ++count) sum += std::abs(answer.nll[i] - nll[i]);
    const std::vector<int32_t>& ids = cpu.at(id).expert_ids;
    ASSERT_EQ(answer.expert_ids.size(), ids.size());
    for (size_t i = 0; i < ids.size(); ++i) other_ids += answer.expert_ids[i] != ids[i];
    num_ids += ids.size();
  }
  ASSERT_GT(count, 0u);
  EXPECT_LE(sum / static_cast<double>(count), 1e-4);
  EXPECT_LE(other_ids * 1000, num_ids);
}

TEST(GpuOnHost, AgreesOnTheTinyModel) {
  expect_agreement("/testdata/tiny-v4", "/testdata/tiny-v4/golden.safetensors", 1000);
}

TEST(GpuOnHost, AgreesOnTheDemoModel) {
  expect_agreement("/demo/model", "/demo/golden.safetensors", 60);
}

TEST(GpuOnHost, GivesTheSameBitsHoweverTheWorkIsSpread) {
  EngineOptions options{.model_dir = kSource + "/testdata/tiny-v4", .device = "cuda-on-cpu"};
  options.pin_ranks = false;
  const auto config = load_config(options.model_dir);
  const auto prompts = load_golden(kSource + "/testdata/tiny-v4/golden.safetensors", *config);
  ASSERT_TRUE(prompts.ok());
  const auto plain = run(options, *prompts);
  for (const int ep_size : {2, 4, 8}) {
    for (const bool waterfill : {false, true}) {
      options.ep_size = ep_size;
      options.enable_waterfill = waterfill;
      options.ep_num_redundant_experts = waterfill ? 8 : 0;
      options.deepep_mode = waterfill ? "normal" : "auto";
      options.chunked_prefill_size = waterfill ? 7 : 64;
      for (const auto& [id, answer] : run(options, *prompts)) {
        EXPECT_TRUE(answer.logits == plain.at(id).logits && answer.nll == plain.at(id).nll &&
                    answer.tokens == plain.at(id).tokens)
            << "ep " << ep_size << ", waterfill " << waterfill << ", prompt " << id;
      }
    }
  }
}

TEST(Device, IsRefusedWithTheReason) {
  EngineOptions options{.model_dir = kSource + "/testdata/tiny-v4", .device = "gpu"};
  EXPECT_NE(choose_device(options).error().message.find("expected auto, cpu or cuda"),
            std::string::npos);
  if (gpu::find_gpu().ok()) GTEST_SKIP() << "a GPU is usable here";
  options.device = "cuda";
  EXPECT_NE(choose_device(options).error().message.find("or use --device cpu"), std::string::npos);
  options.device = "auto";
  EXPECT_EQ(choose_device(options)->kind, DeviceKind::kCpu);
  EXPECT_NE(choose_device(options)->note.find("device: cpu"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
