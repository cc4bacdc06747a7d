// A prefill and a decode server give the answers of one server, and neither keeps anything of a
// request that is over, however it ended.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "plimsoll/recording.h"
#include "serve/pd/disaggregation_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;

double metric(const Server& server, const std::string& name) {
  const std::string text = body_of(ask(server.port(), "GET", "/metrics"));
  const size_t at = text.find("\n" + name);
  return at == std::string::npos ? 0 : std::stod(text.substr(text.find("} ", at) + 2));
}

class DisaggregationTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    prefill_ = make_server("prefill", {.ep_size = 2});
    if (!prefill_) return;
    decode_ = make_server("decode", {.ep_size = 2, .enable_waterfill = true});
    one_ = make_server("null", {});
    EXPECT_EQ(get_json(*prefill_, "/health")["role"], "prefill");
    bootstrap_ = bootstrap_address(*prefill_);
  }
  static void TearDownTestSuite() {
    one_.reset();
    decode_.reset();
    prefill_.reset();
  }
  void SetUp() override {
    if (!prefill_) GTEST_SKIP() << "this build has no UCX";
  }

  static std::string post_apart(const std::string& path,
                                const json& body,
                                const std::string& prefill = bootstrap_) {
    return plimsoll::post_apart(*decode_, prefill, path, body);
  }
  static void expect_nothing_left() {
    for (Server* server : {prefill_.get(), decode_.get()}) {
      double left = 1;
      for (int i = 0; i < 300 && left > 0; ++i) {
        left = metric(*server, "plimsoll_hand_overs_in_flight") +
               metric(*server, "plimsoll_requests_running") +
               metric(*server, "plimsoll_requests_waiting");
        if (left > 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      EXPECT_EQ(left, 0);
    }
  }

  static inline std::unique_ptr<Server> prefill_, decode_, one_;
  static inline std::string bootstrap_;
};

TEST_F(DisaggregationTest, AnswersAreThoseOfOneServer) {
  const std::string text = "In the beginning God created the heaven and the earth.";
  std::string longer;
  for (int i = 0; i < 12; ++i) longer += text + " And the earth was without form. ";
  const std::vector<std::pair<std::string, json>> cases = {
      {"/v1/completions", {{"prompt", text}, {"max_tokens", 24}, {"temperature", 0}}},
      {"/v1/completions", {{"prompt", longer}, {"max_tokens", 12}, {"temperature", 0}}},
      {"/v1/completions",
       {{"prompt", {text, "Call me", "func main() {"}},
        {"n", 3},
        {"max_tokens", 16},
        {"temperature", 0.9},
        {"top_p", 0.95},
        {"seed", 7},
        {"logprobs", 3}}},
      {"/v1/completions",
       {{"prompt", text},
        {"max_tokens", 30},
        {"temperature", 0.8},
        {"seed", 3},
        {"presence_penalty", 0.7},
        {"frequency_penalty", 0.9}}},
      {"/v1/completions",
       {{"prompt", text}, {"max_tokens", 6}, {"echo", true}, {"logprobs", 2}, {"seed", 1}}},
      {"/v1/completions", {{"prompt", text}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}}},
      {"/v1/completions", {{"prompt", text}, {"max_tokens", 1}, {"temperature", 0}}},
      {"/v1/completions",
       {{"prompt", text}, {"max_tokens", 60}, {"stop", {"the", "And"}}, {"seed", 2}}},
      {"/v1/completions",
       {{"prompt", "x"}, {"max_tokens", 20}, {"ignore_eos", true}, {"temperature", 0}}},
      {"/v1/chat/completions",
       {{"messages", {{{"role", "user"}, {"content", "Who made the heaven?"}}}},
        {"max_tokens", 12},
        {"temperature", 0},
        {"logprobs", true},
        {"top_logprobs", 2}}}};
  for (const auto& [path, body] : cases) {
    EXPECT_EQ(comparable(post_apart(path, body)),
              comparable(ask(one_->port(), "POST", path, body.dump())))
        << body;
  }
  EXPECT_GT(metric(*decode_, "plimsoll_hand_over_bytes_total"), 1e5);
  expect_nothing_left();
}

TEST_F(DisaggregationTest, ManyAtOnceAndSomeThatLeave) {
  const auto body = [](int i) {
    return json{{"prompt", "Chapter " + std::to_string(i)},
                {"max_tokens", 12},
                {"temperature", i % 2 ? 0.9 : 0.0},
                {"seed", i}};
  };
  std::vector<json> apart(10), expected(10);
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 10; ++i) {
      clients.emplace_back(
          [&, i] { apart[i] = comparable(post_apart("/v1/completions", body(i))); });
      TestClient leaving(decode_->port());
      const std::string text = json{{"prompt", std::string(400, 'y')}, {"max_tokens", 2000}}.dump();
      leaving.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Plimsoll-Prefill: " + bootstrap_ +
                   "\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text);
      std::this_thread::sleep_for(std::chrono::milliseconds(i * 3));
    }
  }
  for (int i = 0; i < 10; ++i) {
    expected[i] = comparable(ask(one_->port(), "POST", "/v1/completions", body(i).dump()));
  }
  EXPECT_EQ(apart, expected);
  expect_nothing_left();
}

TEST_F(DisaggregationTest, SaysWhatIsWrong) {
  const json body = {{"prompt", "x"}, {"max_tokens", 4}};
  const std::string path = "/v1/completions";
  const auto expect_error = [](const std::string& raw, int status, const std::string& part) {
    EXPECT_EQ(status_of(raw), status) << raw;
    EXPECT_NE(raw.find(part), std::string::npos) << raw;
  };
  expect_error(ask(prefill_->port(), "POST", path, body.dump()), 400, "ask the router");
  expect_error(ask(decode_->port(), "POST", path, body.dump()), 400, "ask the router");
  expect_error(post_apart(path, body, "nonsense"), 403, "ask the router");
  expect_error(post_apart(path, body, "127.0.0.1:1"), 502, "prefill server 127.0.0.1:1");
  expect_nothing_left();
}

// A prefill server that goes away takes nobody with it, and one that comes back is used again.
TEST_F(DisaggregationTest, PrefillServersMayComeAndGo) {
  auto other = make_server("prefill", {});
  const std::string address = bootstrap_address(*other);
  const json body = {{"prompt", std::string(3000, 'z')}, {"max_tokens", 4}, {"temperature", 0}};
  const json expected = comparable(post_apart("/v1/completions", body));
  EXPECT_EQ(comparable(post_apart("/v1/completions", body, address)), expected);
  std::string lost;
  {
    const std::jthread client([&] { lost = post_apart("/v1/completions", body, address); });
    for (int i = 0; i < 500 && metric(*other, "plimsoll_hand_overs_in_flight") == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    other.reset();
  }
  EXPECT_EQ(status_of(lost), 502) << lost;
  EXPECT_EQ(status_of(post_apart("/v1/completions", body, address)), 502);
  expect_nothing_left();
}

// What a server holds depends on its memory, so that two of a pair seldom hold the same.
TEST_F(DisaggregationTest, ServersNeedNotHoldSequencesOfTheSameLength) {
  auto smaller = make_server("prefill", {.max_total_tokens = 100});
  const std::string address = bootstrap_address(*smaller);
  json body = {{"prompt", json(90, json(500))}, {"max_tokens", 20}, {"temperature", 0}};
  EXPECT_EQ(comparable(post_apart("/v1/completions", body, address)),
            comparable(ask(one_->port(), "POST", "/v1/completions", body.dump())));
  body["prompt"] = json(101, json(500));
  const std::string refusal = post_apart("/v1/completions", body, address);
  EXPECT_EQ(status_of(refusal), 502) << refusal;
  EXPECT_NE(refusal.find("at most 100"), std::string::npos) << refusal;
  expect_nothing_left();
}

// A placement of the demo model whose every layer is the trivial one, turned by some experts.
json turned_placement(const Server& any, int num_turns) {
  json map = get_json(any, "/server_info")["placement_in_force"]["physical_to_logical_map"];
  for (json& layer : map) {
    for (json& expert : layer) {
      expert = (expert.get<int>() + num_turns) % static_cast<int>(layer.size());
    }
  }
  return {{"physical_to_logical_map", map}};
}

// Each role takes a placement of its own and records by itself: the prefill server the prompt, the
// decode server the tokens that it computed from there on.
TEST_F(DisaggregationTest, EachRolePlacesAndRecordsByItself) {
  const std::map<std::string, json> placements = {{"prefill", turned_placement(*one_, 5)},
                                                  {"decode", turned_placement(*one_, 11)}};
  std::map<std::string, std::unique_ptr<Server>> servers;
  for (const auto& [role, placement] : placements) {
    servers[role] = make_server(role, {.ep_size = 2,
                                       .init_expert_location = placement.dump(),
                                       .expert_distribution_recorder_mode = "stat"});
    EXPECT_EQ(get_json(*servers[role], "/server_info")["placement_in_force"], placement) << role;
    const std::string begun =
        ask(servers[role]->port(), "POST", "/start_expert_distribution_record");
    EXPECT_EQ(status_of(begun), 200) << begun;
  }
  const json body = {{"prompt", "In the beginning God created the heaven and the earth."},
                     {"max_tokens", 9},
                     {"temperature", 0},
                     {"ignore_eos", true}};
  const json answer = comparable(plimsoll::post_apart(
      *servers["decode"], bootstrap_address(*servers["prefill"]), "/v1/completions", body));
  EXPECT_EQ(answer, comparable(ask(one_->port(), "POST", "/v1/completions", body.dump())));

  const std::map<std::string, int> num_tokens = {{"prefill", answer["usage"]["prompt_tokens"]},
                                                 {"decode", 8}};  // the first came handed over
  for (const auto& [role, server] : servers) {
    const std::string dumped = ask(server->port(), "POST", "/dump_expert_distribution_record");
    ASSERT_EQ(status_of(dumped), 200) << dumped;
    const std::string path = json::parse(body_of(dumped))["path"];
    const Result<Recording> recording = read_recording(path);
    ASSERT_TRUE(recording.ok()) << recording.error().message;
    ASSERT_TRUE(recording->info);
    EXPECT_EQ(recording->info->num_tokens, num_tokens.at(role)) << role;
    json map = json::array();
    for (int l = 0; l < recording->info->placement.num_layers; ++l) {
      map.push_back(recording->info->placement.layer(l));
    }
    EXPECT_EQ(map, placements.at(role)["physical_to_logical_map"]) << role;
    std::filesystem::remove_all(std::filesystem::path(path).parent_path());
  }
}

// Online rebalancing in both roles, as often as can be, changes no answer either.
TEST_F(DisaggregationTest, RebalancesInBothRoles) {
  const EngineOptions options{.ep_size = 2,
                              .ep_num_redundant_experts = 8,
                              .enable_waterfill = true,
                              .enable_eplb = true,
                              .eplb_rebalance_num_iterations = 1,
                              .eplb_rebalance_layers_per_chunk = 6};
  const auto prefill = make_server("prefill", options);
  const auto decode = make_server("decode", options);
  const auto body = [](int i) {
    return json{{"prompt", "Chapter " + std::to_string(i) + std::string(200 * i, '.')},
                {"max_tokens", 24},
                {"temperature", i % 2 ? 0.9 : 0.0},
                {"seed", i},
                {"ignore_eos", true}};
  };
  constexpr int kClients = 4;
  std::vector<json> expected;
  for (int i = 0; i < kClients; ++i) {
    expected.push_back(comparable(ask(one_->port(), "POST", "/v1/completions", body(i).dump())));
  }
  // Whether a turn finds a layer worth switching depends on what was measured.
  const auto num_turns = [](const Server& server) {
    const json state = get_json(server, "/expert_balance")["rebalancing"];
    EXPECT_EQ(state["failed"], 0) << state;
    return state["rebalances"].get<int>() + state["skipped"].get<int>();
  };
  for (int round = 0; round < 50 && (num_turns(*prefill) < 3 || num_turns(*decode) < 3); ++round) {
    std::vector<std::jthread> clients;
    for (int i = 0; i < kClients; ++i) {
      clients.emplace_back([&, i] {
        EXPECT_EQ(comparable(plimsoll::post_apart(*decode, bootstrap_address(*prefill),
                                                  "/v1/completions", body(i))),
                  expected[i]);
      });
    }
  }
  EXPECT_GT(num_turns(*prefill), 0);
  EXPECT_GT(num_turns(*decode), 0);
}

TEST(HandOverMessages, KeepEveryBitAndRefuseGarbage) {
  const PromptMessage prompt{.prompt = {1, 2, 3},
                             .padding_tokens = 1,
                             .wants_token = false,
                             .sampling = {.temperature = 0.1f, .top_k = 5, .seed = ~uint64_t{0}},
                             .num_top_logprobs = 4,
                             .score_prompt = true};
  std::vector<std::byte> bytes = encode(prompt);
  PromptMessage read;
  ASSERT_TRUE(decode(bytes, read));
  EXPECT_EQ(encode(read), bytes);
  EXPECT_EQ(read.prompt, prompt.prompt);
  EXPECT_EQ(read.sampling.seed, prompt.sampling.seed);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode(std::span(bytes).first(size), read)) << size;
  }
  bytes.assign(64, std::byte{0xff});
  EXPECT_FALSE(decode(bytes, read));
}

TEST(HandOverMessages, TellWhyServersCannotWorkTogether) {
  const HelloMessage prefill{
      .version = "1", .model = 1, .role = "prefill", .deepep_mode = "normal"};
  HelloMessage decode = prefill;
  decode.role = "decode";
  decode.deepep_mode = "low_latency";
  EXPECT_EQ(mismatch(prefill, decode), "");
  const auto broken = [&](auto change) {
    HelloMessage other = decode;
    change(other);
    return mismatch(prefill, other);
  };
  EXPECT_NE(broken([](auto& o) { o.version = "2"; }).find("version"), std::string::npos);
  EXPECT_NE(broken([](auto& o) { o.model = 2; }).find("different models"), std::string::npos);
  EXPECT_NE(broken([](auto& o) { o.role = "prefill"; }).find("both servers"), std::string::npos);
  EXPECT_NE(broken([](auto& o) { o.deepep_mode = "auto"; }).find("--deepep-mode auto"),
            std::string::npos);
}

}  // namespace
}  // namespace plimsoll
