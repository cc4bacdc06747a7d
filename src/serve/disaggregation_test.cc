// A prefill and a decode server give the answers of one server, and neither keeps anything of a
// request that is over, however it ended.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "serve/http_test_client.h"
#include "serve/server.h"

namespace plimsoll {
namespace {

using nlohmann::json;
const std::string kModel = std::string(PLIMSOLL_SOURCE_DIR) + "/demo/model";

std::unique_ptr<Server> make_server(const std::string& role, EngineOptions engine_options) {
  auto server =
      std::make_unique<Server>(ServerOptions{.port = 0,
                                             .served_model_name = "demo",
                                             .disaggregation = {.mode = role, .bootstrap_port = 0},
                                             .model_dir = kModel});
  const Status status = server->start();
  if (!status.ok()) {
    EXPECT_EQ(status.error().code, ErrorCode::kUnsupported) << status.error().message;
    return nullptr;
  }
  engine_options.model_dir = kModel;
  engine_options.disaggregation_mode = role;
  engine_options.pin_ranks = false;
  auto engine = Engine::create(engine_options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  auto tokenizer = Tokenizer::load(kModel + "/tokenizer.json");
  server->serve(std::move(*engine), std::move(*tokenizer));
  return server;
}

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
    const json health = json::parse(body_of(ask(prefill_->port(), "GET", "/health")));
    EXPECT_EQ(health["role"], "prefill");
    bootstrap_ = "127.0.0.1:" + std::to_string(health["bootstrap_port"].get<int>());
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
    return ask(decode_->port(), "POST", path, body.dump(),
               "X-Plimsoll-Prefill: " + prefill + "\r\n");
  }
  // The answer without what differs between any two: its id and its time.
  static json comparable(const std::string& raw) {
    EXPECT_EQ(status_of(raw), 200) << raw;
    json answer = json::parse(body_of(raw), nullptr, false);
    answer.erase("id");
    answer.erase("created");
    return answer;
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
  expect_error(post_apart(path, body, "nonsense"), 502, "expected HOST:PORT");
  expect_error(post_apart(path, body, "127.0.0.1:1"), 502, "prefill server 127.0.0.1:1");
  expect_nothing_left();
}

// A prefill server that goes away takes nobody with it, and one that comes back is used again.
TEST_F(DisaggregationTest, PrefillServersMayComeAndGo) {
  auto other = make_server("prefill", {});
  const int port =
      json::parse(body_of(ask(other->port(), "GET", "/health")))["bootstrap_port"].get<int>();
  const std::string address = "127.0.0.1:" + std::to_string(port);
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
  const json health = json::parse(body_of(ask(smaller->port(), "GET", "/health")));
  const std::string address = "127.0.0.1:" + std::to_string(health["bootstrap_port"].get<int>());
  json body = {{"prompt", json(90, json(500))}, {"max_tokens", 20}, {"temperature", 0}};
  EXPECT_EQ(comparable(post_apart("/v1/completions", body, address)),
            comparable(ask(one_->port(), "POST", "/v1/completions", body.dump())));
  body["prompt"] = json(101, json(500));
  const std::string refusal = post_apart("/v1/completions", body, address);
  EXPECT_EQ(status_of(refusal), 502) << refusal;
  EXPECT_NE(refusal.find("at most 100"), std::string::npos) << refusal;
  expect_nothing_left();
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
