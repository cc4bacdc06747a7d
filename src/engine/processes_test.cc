// The engine with its ranks in several processes, here threads with a mesh each: the bits of one,
// while placements change between steps, and while processes die.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <thread>

#include "comm/job_test_support.h"
#include "engine/engine.h"
#include "model/checkpoint/safetensors.h"

namespace plimsoll {
namespace {

using testing::Job;
using testing::on_all_processes;

const std::string kSource = PLIMSOLL_SOURCE_DIR;

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, nll, logits;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Answer&) const = default;
};
using Answers = std::map<int64_t, Answer>;

std::vector<Request> make_requests(int count, int max_tokens) {
  std::minstd_rand random(7);
  std::vector<Request> requests;
  for (int64_t id = 0; id < count; ++id) {
    Request request{.id = id,
                    .max_tokens = 1 + static_cast<int>(random() % max_tokens),
                    .ignore_eos = true,
                    .sampling = {.temperature = id % 2 == 0 ? 0.0f : 0.9f,
                                 .frequency_penalty = id % 3 == 0 ? 0.3f : 0.0f,
                                 .seed = static_cast<uint64_t>(id)},
                    .num_top_logprobs = 0,
                    .score_prompt = true,
                    .logits_positions = {0}};
    const auto num_prompt = 1 + random() % 60;
    for (size_t i = 0; i < num_prompt; ++i) {
      request.prompt.push_back(static_cast<int32_t>(random() % 96));
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

// Adds three requests a step. `between` is called before every step with the number of steps so
// far.
Answers answer_all(
    Engine& engine,
    const std::vector<Request>& requests,
    const std::function<void(int64_t)>& between = [](int64_t) {}) {
  std::vector<RequestUpdate> updates;
  size_t next = 0;
  for (int64_t num_steps = 0; next < requests.size() || !engine.idle(); ++num_steps) {
    for (int i = 0; i < 3 && next < requests.size(); ++i) {
      EXPECT_TRUE(engine.submit(requests[next++]).ok());
    }
    between(num_steps);
    const Status status = engine.step(updates);
    EXPECT_TRUE(status.ok()) << status.error().message;
    if (!status.ok()) break;
  }
  Answers answers;
  for (const RequestUpdate& update : updates) {
    Answer& answer = answers[update.request_id];
    const SegmentResult& result = update.result;
    if (update.has_token) {
      answer.tokens.push_back(result.next.token);
      answer.logprobs.push_back(result.next.logprob);
    }
    answer.nll.insert(answer.nll.end(), result.nll.begin(), result.nll.end());
    answer.logits.insert(answer.logits.end(), result.logits.begin(), result.logits.end());
    answer.finish = update.finish;
  }
  return answers;
}

EngineOptions tiny_options() {
  return {
      .model_dir = kSource + "/testdata/tiny-v4", .chunked_prefill_size = 13, .pin_ranks = false};
}

Answers alone(const std::vector<Request>& requests) {
  const auto engine = Engine::create(tiny_options());
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  return answer_all(**engine, requests);
}

// A job in which process 0 leads and the others follow.
class EngineJob {
 public:
  EngineJob(Job job, EngineOptions options)
      : job_(std::move(job)), options_(std::move(options)), meshes_(job_.hosts.size()) {
    options_.ep_size = job_.num_ranks();
  }

  void run(const std::function<void(Engine&)>& lead) {
    on_all_processes(job_, [&](ProcessMesh& mesh) {
      EngineOptions options = options_;
      options.mesh = &mesh;
      if (mesh.process() == 1 && !first_followers_model.empty()) {
        options.model_dir = first_followers_model;
      }
      auto engine = Engine::create(options);
      ASSERT_TRUE(engine.ok()) << engine.error().message;
      meshes_[mesh.process()] = &mesh;
      if (mesh.process() == 0) {
        lead(**engine);
        engine->reset();
        over_ = true;
        return;
      }
      (void)(*engine)->follow();
      while (!over_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  }
  // Cuts all of its connections, as the system does when a process has died.
  void kill(int process) {
    ProcessMesh* mesh = nullptr;
    while ((mesh = meshes_[process]) == nullptr) std::this_thread::yield();
    for (int p = 0; p < job_.num_processes(); ++p) {
      if (p != process) mesh->bury(p, "is out of reach");
    }
  }

  std::string first_followers_model;  // process 1's: another folder than the others use

 private:
  const Job job_;
  EngineOptions options_;
  std::vector<std::atomic<ProcessMesh*>> meshes_;
  std::atomic<bool> over_ = false;
};

std::vector<int32_t> random_slots(const Placement& placement, std::minstd_rand& random) {
  std::vector<int32_t> slots(placement.num_physical_experts);
  for (size_t i = 0; i < slots.size(); ++i) {
    slots[i] = static_cast<int32_t>(i % placement.num_logical_experts);
  }
  std::ranges::shuffle(slots, random);
  return slots;
}

// A copy of a model folder in which some routed experts of layer 1 hold no numbers.
std::string with_broken_experts(const std::string& model_dir, std::initializer_list<int> experts) {
  const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::filesystem::path copy = ::testing::TempDir() + "/" + test;
  std::filesystem::remove_all(copy);
  std::filesystem::copy(model_dir, copy);
  const auto file = MappedFile::open(model_dir + "/model.safetensors");
  EXPECT_TRUE(file.ok());
  const auto tensors = parse_safetensors(file->bytes());
  std::fstream out(copy / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  for (int e : experts) {
    const std::string name = "layers.1.ffn.experts." + std::to_string(e) + ".w1.weight";
    const TensorView& weight = tensors->at(name);
    out.seekp(weight.bytes.data() - file->bytes().data());
    out << std::string(weight.bytes.size(), '\xff');
  }
  return copy.string();
}

TEST(Processes, KeepThePlacementWhereAnExpertCannotBeLoaded) {
  EngineOptions options = tiny_options();
  EngineJob job({{"a", "a"}, 1}, options);
  job.first_followers_model = with_broken_experts(options.model_dir, {0});
  const std::vector<Request> requests = make_requests(4, 10);
  Answers answers;
  job.run([&](Engine& engine) {
    const std::vector<int32_t> before = engine.placement().physical_to_logical;
    const std::vector<int32_t> swapped = {4, 5, 6, 7, 0, 1, 2, 3};
    answers = answer_all(engine, requests, [&](int64_t step) {
      const Status status = engine.switch_layer(1, swapped);
      ASSERT_FALSE(status.ok());
      EXPECT_NE(status.error().message.find("process 1"), std::string::npos);
      EXPECT_EQ(engine.placement().physical_to_logical, before);
      if (step > 0) return;
      ASSERT_TRUE(engine.switch_layer(2, swapped).ok());
      EXPECT_NE(engine.placement().physical_to_logical, before);
      ASSERT_TRUE(engine.switch_layer(2, {before.data() + 16, 8}).ok());
    });
  });
  EXPECT_TRUE(answers == alone(requests));
}

TEST(Processes, ChangePlacementsBetweenAllSteps) {
  const std::vector<Request> requests = make_requests(12, 20);
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 4;
  options.enable_waterfill = true;
  EngineJob job({{"a", "a", "b"}, 2}, options);
  Answers answers;
  job.run([&](Engine& engine) {
    std::minstd_rand random(3);
    answers = answer_all(engine, requests, [&](int64_t) {
      for (int l = 0; l < engine.placement().num_layers; ++l) {
        const Status status = engine.switch_layer(l, random_slots(engine.placement(), random));
        ASSERT_TRUE(status.ok()) << status.error().message;
      }
    });
  });
  EXPECT_TRUE(answers == alone(requests));
}

// Sequences of one token only, and so a load that is level nowhere.
TEST(Processes, RebalanceWhileServing) {
  std::vector<Request> requests = make_requests(24, 60);
  for (Request& request : requests) {
    request.prompt.assign(20, 5);
    request.max_tokens = 120;
  }
  const Answers expected = alone(requests);
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 4;
  options.enable_eplb = true;
  options.eplb_rebalance_num_iterations = 50;
  options.eplb_rebalance_layers_per_chunk = 2;
  EngineJob job({{"a", "a", "b"}, 1}, options);
  job.run([&](Engine& engine) {
    const RebalanceStats& stats = engine.rebalancer()->stats();
    // Planning and reading take as long as they take.
    for (int round = 0; round < 20 && stats.num_rebalances == 0; ++round) {
      EXPECT_TRUE(answer_all(engine, requests) == expected);
    }
    EXPECT_GT(stats.num_switched_layers, 0);
    EXPECT_GT(stats.num_moved_experts, 0);
    EXPECT_EQ(stats.num_failed, 0);
  });
}

// Whether every token was counted in every layer, those that were computed again once more.
bool recorded_all(const Engine& engine, const std::vector<Request>& requests) {
  const LoadHistory history = engine.recorder()->history();
  const int64_t num_choices =
      std::accumulate(history.counts.begin(), history.counts.end(), int64_t{0});
  const int64_t per_token = int64_t{history.num_layers} * engine.config().num_experts_per_tok;
  int64_t num_tokens = 0;
  for (const Request& request : requests) {
    num_tokens += static_cast<int64_t>(request.prompt.size()) + request.max_tokens - 1;
  }
  return num_choices % per_token == 0 && num_choices / per_token > num_tokens;
}

struct Death {
  int64_t step;
  int process;
  bool within;  // the step, or before it
};

// Answers everything while processes die, and says how many ranks are left.
void check_deaths(const Job& job_shape, EngineOptions options, const std::vector<Death>& deaths) {
  const std::vector<Request> requests = make_requests(16, 24);
  options.elastic = true;
  EngineJob job(job_shape, options);
  Answers answers;
  job.run([&](Engine& engine) {
    const bool records = engine.recorder() != nullptr;
    ASSERT_TRUE(!records || engine.start_recording().ok());
    std::vector<std::jthread> killers;
    answers = answer_all(engine, requests, [&](int64_t step) {
      for (const Death& death : deaths) {
        if (death.step != step) continue;
        if (!death.within) job.kill(death.process);
        if (death.within) killers.emplace_back([&] { job.kill(death.process); });
      }
    });
    killers.clear();
    const int num_left =
        job_shape.num_ranks() - static_cast<int>(deaths.size()) * job_shape.ranks_per_process;
    EXPECT_EQ(engine.num_living_ranks(), num_left);
    EXPECT_EQ(engine.placement().num_ranks, num_left);
    EXPECT_GE(engine.elastic().num_restarts, 1);
    EXPECT_TRUE(engine.health().ok());
    EXPECT_EQ(engine.scheduler().num_state_bytes(), 0);
    EXPECT_FALSE(engine.take_news().empty());
    EXPECT_TRUE(!records || recorded_all(engine, requests));
  });
  EXPECT_TRUE(answers == alone(requests));
}

TEST(Elastic, AnswersTheSameWithoutAProcessThatDied) {
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 4;
  for (const bool within : {false, true}) {
    check_deaths({{"a", "a", "a"}, 2}, options, {{5, 2, within}});
    check_deaths({{"a", "b", "b"}, 1}, options, {{1, 1, within}});
  }
}

TEST(Elastic, NeedsNoCopies) {
  EngineOptions options = tiny_options();
  options.enable_waterfill = true;
  check_deaths({{"a", "a", "a", "a"}, 1}, options, {{2, 3, true}});  // 8 experts on 3 ranks
  check_deaths({{"a", "b"}, 2}, options, {{4, 1, false}});
}

TEST(Elastic, OutlivesDeathAfterDeathInAnyMode) {
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 8;
  for (const char* mode : {"normal", "low_latency"}) {
    options.deepep_mode = mode;
    options.enable_waterfill = true;
    check_deaths({{"a", "a", "b", "b"}, 1}, options, {{0, 3, false}, {1, 2, true}, {9, 1, true}});
  }
  options.moe_a2a_backend = "none";
  options.deepep_mode = "auto";
  options.enable_waterfill = false;
  check_deaths({{"a", "a", "a", "a"}, 1}, options, {{4, 1, true}, {4, 2, true}});
}

TEST(Elastic, RecordsOnAndRebalancesOn) {
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 4;
  options.expert_distribution_recorder_mode = "per_token";
  options.enable_eplb = true;
  options.eplb_rebalance_num_iterations = 2;
  check_deaths({{"a", "a", "b"}, 2}, options, {{3, 1, true}, {10, 2, true}});
}

// Process 2 held experts 6 and 7, of which process 1 would have to take one.
TEST(Elastic, LeavesBehindAProcessThatCannotReadExperts) {
  const std::vector<Request> requests = make_requests(6, 20);
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 1;
  options.elastic = true;
  EngineJob job({{"a", "a", "a"}, 1}, options);
  job.first_followers_model = with_broken_experts(options.model_dir, {6, 7});
  Answers answers;
  job.run([&](Engine& engine) {
    answers = answer_all(engine, requests, [&](int64_t step) {
      if (step == 3) job.kill(2);
    });
    EXPECT_EQ(engine.num_living_ranks(), 1);
    std::string news;
    for (const std::string& line : engine.take_news()) news += line + "\n";
    EXPECT_NE(news.find(" cannot go on: "), std::string::npos) << news;
  });
  EXPECT_TRUE(answers == alone(requests));
}

TEST(Elastic, StopsWhereItWasNotAskedFor) {
  EngineOptions options = tiny_options();
  options.ep_num_redundant_experts = 4;
  EngineJob job({{"a", "a", "a"}, 1}, options);
  job.run([&](Engine& engine) {
    ASSERT_TRUE(engine.submit(make_requests(1, 20)[0]).ok());
    job.kill(1);
    std::vector<RequestUpdate> updates;
    const Status status = engine.step(updates);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("process 1"), std::string::npos);
    EXPECT_FALSE(engine.health().ok());
  });
}
}  // namespace
}  // namespace plimsoll
