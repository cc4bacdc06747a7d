// The command as a user meets it: exit statuses, what goes to stdout and what to stderr, refusals
// before weights load, and the loop of recording, planning and replaying.
#include <algorithm>
#include <numeric>

#include "command_test_support.h"

namespace plimsoll {
namespace {

std::string first_text(const std::string& arguments) {
  return result_of("generate" + kDemo + " --max-tokens 24 " + arguments)["completions"][0]["text"];
}

TEST(EndToEnd, HelpAndVersionAreResults) {
  for (const std::string arguments : {"--help", "generate --help", "help plan", "--version"}) {
    const Outcome outcome = plimsoll(arguments);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_FALSE(outcome.out.empty());
    EXPECT_EQ(outcome.err, "");
  }
}

TEST(EndToEnd, WrongUsageIsStatusTwoAndLeavesStdoutEmpty) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "Examples:"},
      {"genrate", "did you mean generate?"},
      {"eval --ep-sise 2" + kDemoGolden, "did you mean --ep-size?"},
      {"eval" + kDemo, "eval needs --golden F"},
      {"generate" + kDemo, "--prompt TEXT or --prompt-file F"},
      {"generate" + kDemo + " --prompt x --ep-size many", "got 'many'"},
      {"generate" + kDemo + " --prompt x --max-tokens 5000", "4096 positions"},
      {"inspect " + kRoot + "/LICENSE", "expected a recorder file or a placement"},
  };
  for (const auto& [arguments, message] : cases) {
    const Outcome outcome = plimsoll(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_TRUE(contains(outcome.err, message));
  }
}

TEST(EndToEnd, FailureIsStatusOne) {
  for (const std::string& arguments : std::vector<std::string>{
           "generate --model /nowhere --prompt x", "inspect /nowhere.pt",
           "plan --load /nowhere.pt --ep-size 2 --out /dev/null",
           "eval --golden /nowhere.safetensors --model " + kRoot + "/demo/model"}) {
    const Outcome outcome = plimsoll(arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(contains(outcome.err, "/nowhere"));
  }
}

TEST(EndToEnd, UnwrittenResultsAreAFailure) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full here";
  const std::string command = std::string(PLIMSOLL_COMMAND) + " --version >/dev/full 2>/dev/null";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
}

// The model folder has no weights: a refusal that came after loading them would never come.
TEST(EndToEnd, RefusesImpossibleOptionsBeforeWeightsLoad) {
  const fs::path model = scratch() / "model";
  fs::create_directory(model);
  for (const char* file : {"config.json", "tokenizer.json"}) {
    fs::copy_file(fs::path(kRoot) / "demo/model" / file, model / file);
  }
  const std::string zeros = scratch() / "zeros.json";
  std::ofstream(zeros) << json{{"logical_count", std::vector(6, std::vector(64, 0))}};
  const std::string other_model = scratch() / "other.json";
  std::ofstream(other_model) << json{{"logical_count", std::vector(4, std::vector(16, 1))}};

  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"--enable-waterfill --moe-a2a-backend none", {"--enable-waterfill", "deepep"}},
      {"--enable-waterfill --moe-a2a-backend megamoe", {"megamoe", "deepep"}},
      {"--moe-a2a-backend megamoe", {"megamoe", "deepep"}},
      {"--ep-size 8 --ep-num-redundant-experts 3", {"67", "0 or 8"}},
      {"--ep-size 3", {"use 2 redundant"}},
      {"--init-expert-location " + zeros, {"no token"}},
      {"--init-expert-location " + other_model, {"4", "6"}},
      {"--init-expert-location /nowhere.pt", {"/nowhere.pt"}},
      {"--eplb-algorithm nosuch", {"nosuch", "deepseek"}},
      {"--max-dispatch-tokens-per-rank 2 --max-running-requests 8", {"low", "normal"}},
      {"--ep-dispatch-algorithm lp", {"exact"}},
      {"--moe-a2a-backend mooncake", {"deepep"}},
  };
  for (const auto& [flags, parts] : cases) {
    const Outcome outcome = plimsoll("generate --model " + model.string() + " --prompt x " + flags);
    EXPECT_NE(outcome.status, 0) << flags;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err.find("safetensors"), std::string::npos) << flags << outcome.err;
    for (const std::string& part : parts) EXPECT_TRUE(contains(outcome.err, part)) << flags;
  }
}

TEST(EndToEnd, TalkIsPlainWhereItIsNoTerminal) {
  const Outcome outcome = plimsoll("generate" + kDemo + " --prompt 'In the' --max-tokens 4");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find_first_of("\r\033"), std::string::npos) << outcome.err;
  EXPECT_TRUE(contains(outcome.err, "plimsoll generate --model"));  // the command, to repeat it
}

TEST(EndToEnd, EvalAgreesWithTheGoldenAnswersAndOneFingerprint) {
  const json alone = result_of("eval" + kDemoGolden);
  EXPECT_EQ(alone["passed"], true);
  EXPECT_EQ(alone["prompts"], 6);
  EXPECT_LE(alone["max_abs_logit_error"], 1e-2);
  EXPECT_EQ(alone["greedy_mismatches"]["of"], 6 * 48);
  EXPECT_EQ(alone["logits_sha256"].get<std::string>().size(), 64u);
  const json spread = result_of("eval" + kDemoGolden +
                                " --ep-size 3 --ep-num-redundant-experts 8 --enable-waterfill"
                                " --chunked-prefill-size 37");
  EXPECT_EQ(spread["logits_sha256"], alone["logits_sha256"]);
}

TEST(EndToEnd, EvalAgreesOnTheTinyModel) {
  const std::string tiny = kRoot + "/testdata/tiny-v4";
  const json result =
      result_of("eval --model " + tiny + " --golden " + tiny + "/golden.safetensors");
  EXPECT_EQ(result["passed"], true);
}

TEST(EndToEnd, EvalRefusesTheAnswersOfAnotherModel) {
  const Outcome outcome = plimsoll("eval --model " + kRoot + "/testdata/tiny-v4 --golden " + kRoot +
                                   "/demo/golden.safetensors");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_TRUE(contains(outcome.err, "expected"));
}

TEST(EndToEnd, TextDependsOnPromptAndSeedOnly) {
  const std::string prompt = "--prompt 'And it came to pass' --temperature 0.9 --seed 5 ";
  const std::string text = first_text(prompt);
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(first_text(prompt), text);
  EXPECT_EQ(first_text(prompt + "--prompt 'func main() {' --prompt 'The SELECT' --ep-size 2"),
            text);
  EXPECT_EQ(first_text(prompt + "--ep-size 4 --enable-waterfill --deepep-mode low_latency"), text);
  EXPECT_EQ(first_text(prompt + "--moe-a2a-backend none --ep-size 2"), text);
  EXPECT_NE(first_text(prompt + "--seed 6"), text);
}

TEST(EndToEnd, ConfigFileIsWhatFlagsAre) {
  const std::string config = scratch() / "config.json";
  std::ofstream(config) << json{
      {"model", kRoot + "/demo/model"}, {"max-tokens", 6}, {"ep-size", 2}};
  const std::string flags = " --prompt 'Call me' ";
  const json from_file = result_of("generate --config " + config + flags);
  const json from_flags = result_of("generate" + kDemo + " --max-tokens 6 --ep-size 2" + flags);
  EXPECT_EQ(from_file["completions"], from_flags["completions"]);
  EXPECT_EQ(from_file["completions"][0]["token_ids"].size(), 6u);
}

TEST(EndToEnd, RecordsPlansAndReplaysWithTheSameText) {
  const std::string prompts = " --prompt-file " + kRoot + "/demo/prompts --max-tokens 8";
  const std::string dir = scratch();
  const json recorded = result_of(
      "generate" + kDemo + prompts + " --ep-size 2" +
      " --expert-distribution-recorder-mode stat --expert-distribution-recorder-dir " + dir);
  std::string recording;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() == ".pt") recording = entry.path();
  }
  ASSERT_FALSE(recording.empty());

  const json inspected = result_of("inspect " + recording);
  EXPECT_EQ(inspected["num_layers"], 6);
  const auto num_prompt_tokens = recorded["stats"]["prefill"]["tokens"].get<int64_t>();
  const int64_t num_fed_back = 64 * (8 - 1);  // of each completion all tokens but the last
  EXPECT_EQ(inspected["layers"][0]["selections"], 6 * (num_prompt_tokens + num_fed_back));

  const std::string placement = dir + "/placement.json";
  const json planned = result_of("plan --load " + recording +
                                 " --ep-size 4 --ep-num-redundant-experts 8 --out " + placement);
  EXPECT_LE(planned["max_over_mean"], planned["max_over_mean_trivial"]);
  EXPECT_EQ(result_of("inspect " + placement)["num_slots"], 72);

  for (const std::string& location : {placement, recording + " --ep-num-redundant-experts 8"}) {
    const json replayed =
        result_of("generate" + kDemo + prompts + " --ep-size 4 --enable-waterfill" +
                  " --init-expert-location " + location);
    EXPECT_EQ(replayed["completions"], recorded["completions"]);
  }
}

TEST(EndToEnd, BenchReportsThroughputBalanceAndTime) {
  const json result = result_of("bench" + kDemo + " --dataset " + kRoot +
                                "/demo/prompts/code.txt --num-prompts 20 --max-tokens 4"
                                " --concurrency 8 --ep-size 2 --enable-waterfill");
  EXPECT_EQ(result["num_prompts"], 20);
  EXPECT_GT(result["prefill"]["tokens_per_s"], 0);
  EXPECT_GT(result["decode"]["tokens_per_s"], 0);
  const json& balance = result["balance"];
  EXPECT_GE(balance["max_over_mean"]["mean"], 1);
  EXPECT_GE(balance["max_over_mean"]["p99"], balance["max_over_mean"]["p50"]);
  EXPECT_GT(result["rank_seconds"]["experts"], 0);
  EXPECT_GT(result["expert_time"]["samples"], 0);
  EXPECT_GT(result["expert_time"]["ns_per_token"].get<int>() +
                result["expert_time"]["ns_per_expert"].get<int>(),
            0);
  EXPECT_GT(result["memory_bytes_peak"], 0);
}

TEST(EndToEnd, InspectKnowsTheFilesOfTheRepository) {
  const json checkpoint = result_of("inspect " + kRoot + "/demo/model");
  EXPECT_EQ(checkpoint["kind"], "checkpoint");
  EXPECT_EQ(checkpoint["layers"].size(), 6u);
  const json trace = result_of("inspect " + kRoot + "/testdata/traces/demo_speech.json");
  EXPECT_EQ(trace["kind"], "trace");
  EXPECT_EQ(trace["tokens"], 16384);
  const std::string recorder_files = kRoot + "/testdata/recorder-files/";
  EXPECT_EQ(result_of("inspect " + recorder_files + "placement.pt")["kind"], "placement");
  EXPECT_EQ(result_of("inspect " + recorder_files +
                      "expert_distribution_recorder_1780000000.123.pt")["kind"],
            "recorded load");
  EXPECT_EQ(plimsoll("inspect " + recorder_files + "malicious.pt").status, 1);
}

TEST(EndToEnd, PlansForTheEngineThatRunsThem) {
  const std::string dir = scratch();
  const std::string plan = "plan --load " + kRoot + "/testdata/traces/demo_pgdoc.u8 --ep-size 8" +
                           " --ep-num-redundant-experts 8 --out " + dir + "/placement";
  const Outcome sglang = plimsoll(plan + ".json --for sglang --nnodes 2");
  EXPECT_EQ(sglang.status, 0) << sglang.err;
  EXPECT_TRUE(sglang.out.starts_with("counts on SGLang's static dispatch on 2 nodes\n"));
  const json certificate = json::parse(std::ifstream(dir + "/placement.certificate.json"));
  EXPECT_EQ(certificate["dispatch"], "static");
  EXPECT_EQ(certificate["num_nodes"], 2);
  const json placement = json::parse(std::ifstream(dir + "/placement.json"));
  EXPECT_EQ(placement.size(), 1u);  // SGLang fails on any key but the map's

  const json even = result_of(plan + ".json --for vllm");
  const json deepseek = result_of(plan + ".json --for vllm --eplb-algorithm deepseek");
  EXPECT_LE(even["max_over_mean"], deepseek["max_over_mean"]);
  EXPECT_TRUE(contains(plimsoll(plan + ".json --for tensorrt-llm").err, "end it in .yaml"));
  EXPECT_TRUE(contains(plimsoll(plan + ".yaml --for tensorrt-llm").out, "ignores it in silence"));
  EXPECT_TRUE(contains(plimsoll(plan + ".json --for vllm --ep-dispatch-algorithm static").err,
                       "leave out --ep-dispatch-algorithm static"));
}

TEST(EndToEnd, PlanExplainsMovesAndTakesScenarios) {
  const std::string folder = kRoot + "/testdata/traces/", dir = scratch();
  const std::string sizes = " --ep-size 8 --ep-num-redundant-experts 8";
  const std::string first = dir + "/first.json";
  const Outcome explained =
      plimsoll("plan --load " + folder + "demo_pgdoc.u8" + sizes + " --explain --out " + first);
  EXPECT_EQ(explained.status, 0) << explained.err;
  EXPECT_TRUE(contains(explained.out, "proven optimal: no placement is below the mean"));
  EXPECT_TRUE(contains(explained.out, "counts on exact routing"));

  const std::string move = "plan --load " + folder + "demo_speech.u8" + sizes + " --placement " +
                           first + " --expert-bytes 1000 --out " + dir;
  const json moved = result_of(move + "/free.json");
  const json limited = result_of(move + "/limited.json --max-moved-experts 40");
  EXPECT_LE(limited["moved_experts"], 40);
  EXPECT_EQ(limited["moved_bytes"], limited["moved_experts"].get<int>() * 1000);
  EXPECT_LE(moved["max_over_mean"], limited["max_over_mean"]);
  EXPECT_LT(limited["max_over_mean"], limited["max_over_mean_in_force"]);

  const json robust = result_of("plan --scenario " + folder + "demo_speech.u8 --scenario " +
                                folder + "demo_pydoc.u8" + sizes + " --out " + dir + "/both.pt");
  ASSERT_EQ(robust["scenarios"].size(), 2u);
  for (const json& scenario : robust["scenarios"]) {
    EXPECT_LE(scenario["max_over_mean"], robust["worst_max_over_mean"]);
    EXPECT_LE(scenario["bound_over_mean"], scenario["max_over_mean_own_plan"]);
  }
  EXPECT_LE(robust["weighted_max_over_mean"], robust["worst_max_over_mean"]);

  const json alive = result_of("plan --load " + folder + "demo_speech.u8 --ep-size 8" +
                               " --ep-num-redundant-experts 16 --dead-rank 3" +
                               " --eplb-algorithm auto --out " + dir + "/alive.json");
  EXPECT_EQ(alive["algorithm"], "elasticity_aware");
  EXPECT_EQ(plimsoll("plan --ep-size 8 --out " + dir + "/x.json").status, 2);
  EXPECT_EQ(plimsoll(move + "/x.json --dead-rank 8").status, 2);
}

TEST(EndToEnd, ReportStandsAloneAndHasThePlansNumbers) {
  const std::string of = " --load " + kRoot + "/testdata/traces/demo_pgdoc.u8 --ep-size 8" +
                         " --ep-num-redundant-experts 8 --out " + scratch().string();
  const json plan = result_of("plan" + of + "/placement.json");
  const Outcome outcome = plimsoll("report" + of + "/report.html");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const std::string page = read_file(scratch() / "report.html");
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const size_t at = page.find(begin) + begin.size();
  const size_t end = page.find("</script>", at);
  const json data = json::parse(page.substr(at, end - at), nullptr, false);
  ASSERT_TRUE(data.is_object());

  // Nothing is fetched from elsewhere.
  const std::string rest = page.substr(0, at) + page.substr(end);
  for (const char* reference : {"http:", "https:", "//cdn", "src=", "href=", "url(", "@import",
                                "fetch(", "XMLHttpRequest", "{{"}) {
    EXPECT_EQ(rest.find(reference), std::string::npos) << reference;
  }

  EXPECT_EQ(data["max_over_mean"], plan["max_over_mean"]);
  EXPECT_EQ(data["max_over_mean_before"], plan["max_over_mean_trivial"]);
  ASSERT_EQ(data["layers"].size(), plan["layers"].size());
  for (size_t l = 0; l < data["layers"].size(); ++l) {
    const json& drawn = data["layers"][l];
    const json& planned = plan["layers"][l];
    EXPECT_EQ(drawn["max"], planned["max"]);
    EXPECT_EQ(drawn["max_before"], planned["max_trivial"]);
    EXPECT_EQ(drawn["lower_bound"], planned["lower_bound"]);
    EXPECT_EQ(drawn["mean"], planned["mean"]);
    EXPECT_EQ(drawn["why"], planned["why"]);
    const auto ranks = data["rank_load"][l].get<std::vector<int64_t>>();
    const auto before = data["rank_load_before"][l].get<std::vector<int64_t>>();
    const auto experts = data["expert_load"][l].get<std::vector<int64_t>>();
    EXPECT_EQ(*std::max_element(ranks.begin(), ranks.end()), planned["max"]);
    EXPECT_EQ(*std::max_element(before.begin(), before.end()), planned["max_trivial"]);
    EXPECT_EQ(std::accumulate(ranks.begin(), ranks.end(), int64_t{0}),
              std::accumulate(experts.begin(), experts.end(), int64_t{0}));
  }
  const auto copies = data["copies"].get<std::vector<std::vector<int>>>();
  for (const auto& layer : copies) EXPECT_EQ(std::accumulate(layer.begin(), layer.end(), 0), 72);
}

TEST(EndToEnd, ReplayComparesPlacementsAndPolicies) {
  const std::string trace = kRoot + "/testdata/traces/demo_pgdoc.u8";
  const std::string placement = scratch() / "placement.yaml";
  result_of("plan --load " + trace + " --ep-size 8 --ep-num-redundant-experts 8 --out " +
            placement);
  const std::string replay = "replay --trace " + trace + " --ep-size 8 --batch-tokens 2048" +
                             " --placement trivial --placement " + placement +
                             " --ep-num-redundant-experts 8";
  const json result = result_of(replay);
  EXPECT_EQ(result["num_batches"], 8);
  ASSERT_EQ(result["rows"].size(), 2u * 4);
  for (const json& row : result["rows"]) {
    EXPECT_GE(row["max_over_mean"].get<double>(), row["bound_over_mean"].get<double>());
    EXPECT_GT(row["messages_per_token"], 0);
  }
  const json& best = result["rows"][7];
  EXPECT_EQ(best["policy"], "exact+waterfill");
  EXPECT_EQ(best["max_over_mean"], best["bound_over_mean"]);
  EXPECT_LT(best["max_over_mean"], result["rows"][3]["max_over_mean"]);

  EXPECT_EQ(plimsoll(replay + " --policy exact -o csv").out.find("placement,policy,"), 0u);
  EXPECT_EQ(plimsoll(replay + " --policy exact -o md").out.find("| placement | policy |"), 0u);
  const json shuffled = result_of(replay + " --policy exact --shuffle");
  EXPECT_NE(shuffled["rows"][0]["messages_per_token"], result["rows"][2]["messages_per_token"]);
  const json sglang =
      result_of(replay + " --policy static+waterfill --policy exact+waterfill" +
                " --policy static+sglang_waterfill" + " --policy static+sglang_waterfill_global");
  ASSERT_EQ(sglang["rows"].size(), 2u * 4);
  for (const int drawn : {6, 7}) {  // placement.yaml's
    EXPECT_GT(sglang["rows"][drawn]["max_over_mean"], sglang["rows"][4]["max_over_mean"]);
    EXPECT_GT(sglang["rows"][drawn]["messages_per_token"], sglang["rows"][5]["messages_per_token"]);
  }
  EXPECT_EQ(plimsoll("replay --load " + trace + " --top-k 6 --ep-size 8" +
                     " --policy static+sglang_waterfill")
                .status,
            2);
  const json counts = result_of("replay --load " + trace + " --top-k 6 --ep-size 8");
  EXPECT_TRUE(counts["rows"][0]["messages_per_token"].is_null());

  const std::string decode = "replay --trace " + trace +
                             " --ep-size 8 --batch-tokens 64 --shuffle" +
                             " --placement trivial --placement " + placement;
  const json experts = result_of(decode + " --route-objective experts");
  ASSERT_EQ(experts["rows"].size(), 2u);
  for (const json& row : experts["rows"]) EXPECT_EQ(row["max_over_mean"], row["bound_over_mean"]);
  EXPECT_LT(experts["rows"][1]["max_over_mean"], experts["rows"][0]["max_over_mean"]);
  const json time =
      result_of(decode + " --route-objective time" + " --ns-per-expert 2000 --ns-per-token 50");
  ASSERT_EQ(time["rows"].size(), 4u);
  for (const json& row : time["rows"]) {
    EXPECT_GE(row["max_over_mean"], row["bound_over_mean"]);
    EXPECT_LT(row["max_over_mean"], 2);
  }
  EXPECT_TRUE(contains(plimsoll(decode + " --route-objective time --policy static").err,
                       "use exact for experts or time"));
  EXPECT_EQ(plimsoll("replay --ep-size 8").status, 2);
  EXPECT_EQ(plimsoll("replay --load " + trace + " --ep-size 8").status, 2);
}

}  // namespace
}  // namespace plimsoll
