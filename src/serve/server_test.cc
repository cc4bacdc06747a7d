#include "serve/server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "plimsoll/recording.h"
#include "record/formats/file_io.h"
#include "record/formats/zip.h"
#include "serve/http/http_test_client.h"

namespace plimsoll {
namespace {

using nlohmann::json;
const std::string kModel = std::string(PLIMSOLL_SOURCE_DIR) + "/demo/model";

// One server on the demo model for all tests of a suite.
class ServerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    recorder_dir_ = std::filesystem::path(testing::TempDir()) / "server_test";
    server_ = new Server({.port = 0,
                          .admin_api_key = "secret",
                          .served_model_name = "demo",
                          .recorder_dir = recorder_dir_});
    ASSERT_TRUE(server_->start().ok());
    EXPECT_EQ(status_of(ask(server_->port(), "GET", "/health")), 503);
    EXPECT_EQ(status_of(ask(server_->port(), "POST", "/v1/completions", "{}")), 503);
    EngineOptions options{.model_dir = kModel,
                          .ep_size = 2,
                          .enable_waterfill = true,
                          .expert_distribution_recorder_mode = "stat",
                          .pin_ranks = false};
    auto engine = Engine::create(options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    auto tokenizer = Tokenizer::load(kModel + "/tokenizer.json");
    ASSERT_TRUE(tokenizer.ok());
    server_->serve(std::move(*engine), std::move(*tokenizer));
  }
  static void TearDownTestSuite() {
    server_->drain();
    delete server_;
    std::filesystem::remove_all(recorder_dir_);
  }

  static std::string post(const std::string& path, const json& body) {
    return ask(server_->port(), "POST", path, body.dump());
  }
  static json answer(const std::string& path, const json& body) {
    const std::string raw = post(path, body);
    EXPECT_EQ(status_of(raw), 200) << raw;
    return json::parse(body_of(raw), nullptr, false);
  }
  static std::string error_of(const std::string& path, const std::string& body) {
    const std::string raw = ask(server_->port(), "POST", path, body);
    EXPECT_EQ(status_of(raw), 400) << raw;
    return json::parse(body_of(raw))["error"]["message"].get<std::string>();
  }
  // The events of a streamed answer, without [DONE], which must come last.
  static std::vector<json> stream(const std::string& path, json body) {
    body["stream"] = true;
    TestClient client(server_->port());
    const std::string text = body.dump();
    // HTTP/1.0: the answer comes without chunk marks.
    client.send("POST " + path + " HTTP/1.0\r\nContent-Length: " + std::to_string(text.size()) +
                "\r\n\r\n" + text);
    std::string rest = body_of(client.receive_all());
    std::vector<json> events;
    bool done = false;
    while (rest.starts_with("data: ")) {
      const size_t end = rest.find("\n\n");
      const std::string event = rest.substr(6, end - 6);
      rest.erase(0, end + 2);
      EXPECT_FALSE(done);
      done = event == "[DONE]";
      if (!done) events.push_back(json::parse(event));
    }
    EXPECT_TRUE(done) << rest;
    return events;
  }

  static inline Server* server_ = nullptr;
  static inline std::string recorder_dir_;
};

TEST_F(ServerTest, CompletesAndStreamsTheSameText) {
  const json body = {
      {"prompt", "In the beginning God created"}, {"max_tokens", 20}, {"temperature", 0}};
  const json whole = answer("/v1/completions", body);
  const std::string text = whole["choices"][0]["text"];
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 20);
  json streamed_body = body;
  streamed_body["stream_options"] = {{"include_usage", true}};
  const std::vector<json> events = stream("/v1/completions", streamed_body);
  std::string streamed;
  for (const json& event : events) {
    if (!event["choices"].empty()) streamed += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(events.back()["usage"], whole["usage"]);
}

TEST_F(ServerTest, ChatsThroughRoles) {
  const json body = {{"messages",
                      {{{"role", "system"}, {"content", "Be brief."}},
                       {{"role", "user"}, {"content", "Who made the heaven?"}}}},
                     {"max_tokens", 8},
                     {"temperature", 0},
                     {"logprobs", true},
                     {"top_logprobs", 2}};
  const json reply = answer("/v1/chat/completions", body);
  EXPECT_EQ(reply["object"], "chat.completion");
  EXPECT_FALSE(reply["choices"][0]["message"].contains("reasoning_content"));
  EXPECT_EQ(reply["choices"][0]["message"]["role"], "assistant");
  const json& logprobs = reply["choices"][0]["logprobs"]["content"];
  ASSERT_FALSE(logprobs.empty());
  EXPECT_EQ(logprobs[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(logprobs[0]["token"], logprobs[0]["top_logprobs"][0]["token"])
      << "greedy takes the top";
}

TEST_F(ServerTest, StreamsTheRoleOnce) {
  const std::vector<json> events =
      stream("/v1/chat/completions",
             {{"messages", {{{"role", "user"}, {"content", "Who made the heaven?"}}}},
              {"max_tokens", 8},
              {"n", 2},
              {"ignore_eos", true}});
  std::map<int, std::string> roles;
  for (const json& event : events) {
    const json& choice = event["choices"][0];
    roles[choice["index"]] += choice["delta"].contains("role") ? 'r' : '-';
  }
  ASSERT_EQ(roles.size(), 2u);
  for (const auto& [index, role] : roles) {
    EXPECT_GT(role.size(), 2u);
    EXPECT_EQ(role.rfind('r'), 0u) << role;
  }
}

TEST_F(ServerTest, TellsReasoningFromContent) {
  const json body = {{"messages", {{{"role", "user"}, {"content", "Who made the heaven?"}}}},
                     {"chat_template_kwargs", {{"thinking", true}}},
                     {"max_tokens", 12},
                     {"temperature", 0},
                     {"ignore_eos", true}};
  const json message = answer("/v1/chat/completions", body)["choices"][0]["message"];
  ASSERT_TRUE(message.contains("reasoning_content")) << message;
  EXPECT_FALSE(message["reasoning_content"].get<std::string>().empty());
  std::string reasoning, content;
  for (const json& event : stream("/v1/chat/completions", body)) {
    const json& delta = event["choices"][0]["delta"];
    reasoning += delta.value("reasoning_content", "");
    content += delta.value("content", "");
  }
  EXPECT_EQ(message["reasoning_content"], reasoning);
  EXPECT_EQ(message["content"], content);
}

TEST_F(ServerTest, SeedsMakeSamplesRepeatable) {
  const json body = {
      {"prompt", "Call me"}, {"max_tokens", 16}, {"temperature", 1}, {"seed", 5}, {"n", 3}};
  const json first = answer("/v1/completions", body)["choices"];
  EXPECT_EQ(first, answer("/v1/completions", body)["choices"]);
  EXPECT_NE(first[0]["text"], first[1]["text"]);
}

TEST_F(ServerTest, StopsBeforeAStopString) {
  const json body = {
      {"prompt", "In the beginning God created"}, {"max_tokens", 40}, {"temperature", 0}};
  const std::string text = answer("/v1/completions", body)["choices"][0]["text"];
  json stopping = body;
  stopping["stop"] = text.substr(10, 4);
  const json cut = answer("/v1/completions", stopping)["choices"][0];
  EXPECT_EQ(cut["text"], text.substr(0, text.find(text.substr(10, 4))));
  EXPECT_EQ(cut["finish_reason"], "stop");
}

TEST_F(ServerTest, EchoesThePromptWithItsLogprobs) {
  const json choice = answer(
      "/v1/completions",
      {{"prompt", "the earth"}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}})["choices"][0];
  EXPECT_EQ(choice["text"], "the earth");
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), choice["logprobs"]["token_logprobs"].size());
  EXPECT_LT(choice["logprobs"]["token_logprobs"][0].get<double>(), 0);
}

TEST_F(ServerTest, EchoCountsCharactersAndKnowsNoLogprobOfTheFirstToken) {
  const json body = {{"prompt", "naïve 中文 z"},
                     {"max_tokens", 2},
                     {"echo", true},
                     {"logprobs", 1},
                     {"temperature", 0}};
  const json choice = answer("/v1/completions", body)["choices"][0];
  EXPECT_TRUE(choice["text"].get<std::string>().starts_with("naïve 中文 z")) << choice["text"];
  const json& logprobs = choice["logprobs"];
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_number()) << "it follows the begin of the sentence";
  const auto found = std::ranges::find(logprobs["tokens"], json(" z"));
  ASSERT_NE(found, logprobs["tokens"].end()) << logprobs["tokens"];
  EXPECT_EQ(logprobs["text_offset"][found - logprobs["tokens"].begin()], 8);

  json ids = body;
  ids["prompt"] = {500, 501};
  const json first = answer("/v1/completions", ids)["choices"][0]["logprobs"];
  EXPECT_TRUE(first["token_logprobs"][0].is_null()) << first;
  EXPECT_TRUE(first["top_logprobs"][0].is_null()) << first;
  EXPECT_TRUE(first["token_logprobs"][1].is_number()) << first;
  EXPECT_EQ(first["top_logprobs"][1].size(), 1u)
      << "the most likely instead of the prompt's second";
  EXPECT_GE(first["top_logprobs"][1].begin()->get<float>(),
            first["token_logprobs"][1].get<float>());
}

TEST_F(ServerTest, RefusesWhatItWouldIgnore) {
  const auto refused = [](const std::string& field, const json& message, const json& rest = {}) {
    json body = {{"messages", {message}}, {"max_tokens", 1}};
    if (rest.is_object()) body.update(rest);
    const std::string error = error_of("/v1/chat/completions", body.dump());
    EXPECT_NE(error.find("does not know the field \"" + field + "\""), std::string::npos) << error;
  };
  const json user = {{"role", "user"}, {"content", "x"}};
  json strange = user;
  strange["weight"] = 0;
  refused("weight", strange);
  json calls = user;
  calls["tool_calls"] = {{{"id", "a"}}};
  refused("tool_calls", calls);
  EXPECT_NE(error_of("/v1/completions", R"({"prompt":"a","tools":[1]})").find("expected []"),
            std::string::npos);
  answer("/v1/completions", {{"prompt", "a"},
                             {"max_tokens", 1},
                             {"tools", json::array()},
                             {"logit_bias", json::object()},
                             {"response_format", {{"type", "text"}}}});
  refused("enable_thinking", user, {{"chat_template_kwargs", {{"enable_thinking", true}}}});
  refused("usage", user, {{"stream", true}, {"stream_options", {{"usage", true}}}});

  // An answer as the official client gives it back.
  const json earlier = {{"role", "assistant"},          {"content", "y"},
                        {"reasoning_content", "z"},     {"refusal", nullptr},
                        {"annotations", json::array()}, {"tool_calls", nullptr}};
  json named = user;
  named["name"] = "Ann";
  answer("/v1/chat/completions", {{"messages", {named, earlier, user}}, {"max_tokens", 1}});
}

TEST_F(ServerTest, RefusesWhatCanNeverBeHeld) {
  const json many = {{"prompt", json(256, json("x"))}, {"n", 128}};
  const std::string error = error_of("/v1/completions", many.dump());
  EXPECT_NE(error.find("32768 answers"), std::string::npos) << error;
}

TEST_F(ServerTest, TellsTheLongestSequenceThatItHolds) {
  Server server({.port = 0, .served_model_name = "demo"});
  ASSERT_TRUE(server.start().ok());
  auto engine = Engine::create({.model_dir = kModel, .max_total_tokens = 100, .pin_ranks = false});
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  server.serve(std::move(*engine), *Tokenizer::load(kModel + "/tokenizer.json"));
  const json models = json::parse(body_of(ask(server.port(), "GET", "/v1/models")));
  EXPECT_EQ(models["data"][0]["max_model_len"], 100);
  const json body = {{"prompt", json(100, json(500))}, {"max_tokens", 1}};
  const std::string refusal = ask(server.port(), "POST", "/v1/completions", body.dump());
  EXPECT_EQ(status_of(refusal), 400);
  EXPECT_NE(refusal.find("at most 100"), std::string::npos) << refusal;
  const json chat = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"ignore_eos", true}};
  const std::string raw = ask(server.port(), "POST", "/v1/chat/completions", chat.dump());
  EXPECT_EQ(json::parse(body_of(raw))["usage"]["total_tokens"], 100) << raw;
  server.drain();
}

TEST_F(ServerTest, TellsTheClientWhatIsWrong) {
  const std::string path = "/v1/completions";
  EXPECT_NE(error_of(path, "{").find("the body is not JSON"), std::string::npos);
  EXPECT_NE(error_of(path, std::string(100000, '[')).find("the body"), std::string::npos);
  EXPECT_EQ(error_of(path, "[1]"), "the body is not a JSON object");
  EXPECT_NE(error_of(path, "{}").find("prompt is missing"), std::string::npos);
  EXPECT_NE(error_of(path, R"({"prompt":"a","max_token":3})").find("did you mean"),
            std::string::npos);
  EXPECT_EQ(error_of(path, R"({"prompt":"a","temperature":"hot"})"),
            "temperature is \"hot\", expected a number from 0.0 to 100.0");
  EXPECT_NE(error_of(path, R"({"prompt":[70000]})").find("vocabulary"), std::string::npos);
  EXPECT_NE(error_of(path, R"({"prompt":"a","n":0})").find("n is 0"), std::string::npos);
  EXPECT_NE(error_of(path, R"({"prompt":"a","top_k":18446744073709551615})").find("top_k"),
            std::string::npos);
  EXPECT_NE(error_of(path, "{\"prompt\":\"\xff\"}").find("JSON"), std::string::npos);
  EXPECT_NE(error_of("/v1/chat/completions", R"({"messages":[{"role":"cat","content":"x"}]})")
                .find("role"),
            std::string::npos);
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/v1/completions")), 405);
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/../../etc/passwd")), 404);
}

// What would be copied for each answer is looked at, or counted, before.
TEST_F(ServerTest, RefusesWhatWouldFillItsMemory) {
  const std::string path = "/v1/completions";
  const json many_prompts(std::vector<std::string>(256, "a"));
  EXPECT_NE(
      error_of(
          path,
          json{{"prompt", many_prompts}, {"n", 128}, {"stop", std::string(100'000, 's')}}.dump())
          .find("stop"),
      std::string::npos);
  EXPECT_NE(error_of(path, json{{"prompt", many_prompts}, {"n", 128}, {"stop", "s"}}.dump())
                .find("32768 answers"),
            std::string::npos);
  const json held = {{"prompt", std::vector<std::string>(4, "a")},
                     {"n", 128},
                     {"max_tokens", 4000},
                     {"logprobs", 20}};
  EXPECT_NE(error_of(path, held.dump()).find("log probabilities"), std::string::npos);
  std::string siblings = R"({"prompt":"a","max_tokens":1,"metadata":[{})";
  for (int i = 0; i < 400'000; ++i) siblings += ",{}";
  EXPECT_EQ(status_of(ask(server_->port(), "POST", path, siblings + "]}")), 200)
      << "in quadratic time it took a minute";
  EXPECT_EQ(status_of(post(path, {{"prompt", "a"}, {"max_tokens", 1}})), 200);
}

TEST_F(ServerTest, LooksAtPathAndKeyBeforeTheBody) {
  const std::string rest = " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
  for (const auto& [target, status] : std::map<std::string, int>{
           {"POST /nowhere", 404}, {"POST /flush_cache", 401}, {"PUT /v1/completions", 405}}) {
    TestClient client(server_->port());
    client.send(target + rest);
    EXPECT_EQ(status_of(client.receive()), status) << target;
  }
  const std::string key = "Authorization: bearer secret\r\n";
  EXPECT_EQ(status_of(ask(server_->port(), "POST", "/flush_cache", "", key)), 200);
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/flush_cache", "",
                          key + "Sec-Fetch-Site: cross-site\r\n")),
            403);
}

TEST_F(ServerTest, OneTokenAnswersAllWhoAskWhetherItGenerates) {
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 50; ++i) {
    clients.push_back(std::make_unique<TestClient>(server_->port()));
    clients.back()->send("GET /health_generate HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  for (const auto& client : clients) EXPECT_EQ(status_of(client->receive()), 200);
}

TEST_F(ServerTest, InformsOperators) {
  for (const char* path : {"/health", "/health_generate", "/version", "/metrics", "/", "/v1/models",
                           "/server_info", "/get_server_info", "/get_model_info"}) {
    EXPECT_EQ(status_of(ask(server_->port(), "GET", path)), 200) << path;
  }
}

TEST_F(ServerTest, RecordsUnderLoadAndReportsBalance) {
  const std::string key = "Authorization: Bearer secret\r\n";
  const auto admin = [&](const std::string& path) {
    return ask(server_->port(), "POST", path, "", key);
  };
  EXPECT_EQ(status_of(ask(server_->port(), "POST", "/start_expert_distribution_record")), 401);
  EXPECT_EQ(status_of(admin("/start_expert_distribution_record")), 200);
  answer("/v1/completions", {{"prompt", "And God said"}, {"max_tokens", 12}});
  EXPECT_EQ(status_of(admin("/stop_expert_distribution_record")), 200);
  const json dump = json::parse(body_of(admin("/dump_expert_distribution_record")));
  EXPECT_GT(dump["num_passes"], 0);
  EXPECT_GT(dump["num_tokens"], 12);
  EXPECT_TRUE(std::filesystem::exists(dump["path"].get<std::string>()));

  const json balance = json::parse(body_of(ask(server_->port(), "GET", "/expert_balance")));
  EXPECT_EQ(balance["ep_size"], 2);
  EXPECT_EQ(balance["layers"].size(), 6u);
  EXPECT_GE(balance["mean"]["max_over_mean"].get<double>() + 1e-9,
            balance["mean"]["bound"].get<double>());
  EXPECT_LE(balance["mean"]["max_over_mean"], balance["mean"]["max_over_mean_before"]);
}

TEST_F(ServerTest, ADownloadHoldsTheFilesOfAllRanks) {
  Server server({.port = 0, .served_model_name = "demo", .recorder_dir = recorder_dir_});
  ASSERT_TRUE(server.start().ok());
  auto engine = Engine::create({.model_dir = kModel,
                                .ep_size = 4,
                                .expert_distribution_recorder_mode = "per_pass",
                                .pin_ranks = false});
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  server.serve(std::move(*engine), *Tokenizer::load(kModel + "/tokenizer.json"));
  const auto post = [&](const std::string& path, const std::string& body = "") {
    return ask(server.port(), "POST", path, body);
  };
  EXPECT_EQ(status_of(post("/start_expert_distribution_record")), 200);
  const json body = {{"prompt", {"And God said", "It was"}}, {"max_tokens", 5}};
  EXPECT_EQ(status_of(post("/v1/completions", body.dump())), 200);
  const std::string answer = post("/dump_expert_distribution_record?download=1");
  EXPECT_NE(answer.find("Content-Type: application/zip"), std::string::npos);
  const std::string archive = body_of(answer);
  const auto zip = ZipReader::open(std::as_bytes(std::span(archive)));
  ASSERT_TRUE(zip.ok()) << zip.error().message;
  ASSERT_EQ(zip->names().size(), 4u);
  std::vector<Recording> recordings;
  for (size_t r = 0; r < 4; ++r) {
    const std::string& name = zip->names()[r];
    EXPECT_TRUE(name.starts_with("expert_distribution_recorder_") &&
                name.ends_with("_" + std::to_string(r) + ".pt"))
        << name;
    const std::string path = recorder_dir_ + "/unpacked_" + name;
    ASSERT_TRUE(write_file(path, *zip->read(name)).ok());
    auto recording = read_recording(path);
    ASSERT_TRUE(recording.ok()) << recording.error().message;
    EXPECT_EQ(recording->rank, static_cast<int>(r));
    recordings.push_back(std::move(*recording));
  }
  EXPECT_GT(load_history(recordings)->counts.size(), 0u);
  server.drain();
}

TEST_F(ServerTest, ALargeBodyGetsTheAnswerOfASmallOne) {
  const json body = {{"prompt", "Call me"}, {"max_tokens", 4}, {"temperature", 0}};
  const std::string padded = body.dump() + std::string(1 << 20, ' ');
  const json large = json::parse(body_of(ask(server_->port(), "POST", "/v1/completions", padded)));
  EXPECT_EQ(large["choices"], answer("/v1/completions", body)["choices"]);
  const json huge = {{"prompt", std::string(1 << 20, 'x')}};
  EXPECT_NE(error_of("/v1/completions", huge.dump()).find("tokens"), std::string::npos);
}

TEST_F(ServerTest, ManyClientsAtOnceGetTheAnswersTheyGetAlone) {
  const auto body = [](int i) {
    return json{{"prompt", "Chapter " + std::to_string(i)},
                {"max_tokens", 10},
                {"temperature", i % 2 ? 0.9 : 0.0},
                {"seed", i}};
  };
  std::vector<json> alone(12), together(12);
  for (int i = 0; i < 12; ++i) alone[i] = answer("/v1/completions", body(i))["choices"];
  std::vector<std::jthread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] { together[i] = answer("/v1/completions", body(i))["choices"]; });
  }
  clients.clear();
  EXPECT_EQ(alone, together);
}

TEST_F(ServerTest, ClientsThatLeaveAreForgotten) {
  for (int i = 0; i < 10; ++i) {
    TestClient client(server_->port());
    const std::string body = json{
        {"prompt", "x"},
        {"max_tokens", 3000},
        {"ignore_eos", true},
        {"stream", i % 2 == 0}}.dump();
    client.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                std::to_string(body.size()) + "\r\n\r\n" + body);
    if (i % 2 == 0) client.receive();
  }
  double running = -1;
  for (int i = 0; i < 200 && running != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    running =
        json::parse(body_of(ask(server_->port(), "GET", "/expert_balance")))["requests_running"];
  }
  EXPECT_EQ(running, 0);
}

// As often as can be, with clients that come, stream and hang up, Waterfill and a recorder.
TEST_F(ServerTest, RebalancesWhileServing) {
  const auto body = [](int i) {
    return json{{"prompt", "def number_" + std::to_string(i) + "():"},
                {"max_tokens", 20 + i},
                {"temperature", i % 2 ? 0.9 : 0.0},
                {"seed", i},
                {"logprobs", 0},
                {"ignore_eos", true}};
  };
  constexpr int kClients = 6;
  std::vector<json> alone;
  for (int i = 0; i < kClients; ++i) {
    alone.push_back(answer("/v1/completions", body(i))["choices"]);
  }
  const std::string refusal =
      ask(server_->port(), "POST", "/rebalance_experts", "", "Authorization: Bearer secret\r\n");
  EXPECT_EQ(status_of(refusal), 400);
  EXPECT_NE(refusal.find("start with --enable-eplb"), std::string::npos);

  Server server({.port = 0, .served_model_name = "demo", .recorder_dir = recorder_dir_});
  ASSERT_TRUE(server.start().ok());
  auto engine = Engine::create({.model_dir = kModel,
                                .ep_size = 4,
                                .ep_num_redundant_experts = 8,
                                .enable_waterfill = true,
                                .enable_eplb = true,
                                .eplb_rebalance_num_iterations = 2,
                                .eplb_rebalance_layers_per_chunk = 6,
                                .expert_distribution_recorder_mode = "stat",
                                .pin_ranks = false});
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  server.serve(std::move(*engine), *Tokenizer::load(kModel + "/tokenizer.json"));
  const auto get = [&](const std::string& path) {
    return json::parse(body_of(ask(server.port(), "GET", path)));
  };
  const json first_map = get("/server_info")["placement_in_force"]["physical_to_logical_map"];
  EXPECT_EQ(first_map[0].size(), 72u);
  EXPECT_EQ(status_of(ask(server.port(), "POST", "/start_expert_distribution_record")), 200);
  // A turn may find nothing to gain, so turns are waited for, and one of them to switch something.
  const auto has_rebalanced = [&] {
    const json state = get("/expert_balance")["rebalancing"];
    const int num_switched = state["rebalances"];
    return num_switched > 0 && num_switched + state["skipped"].get<int>() >= 5;
  };
  for (int round = 0; round < 50 && !has_rebalanced(); ++round) {
    std::vector<std::jthread> clients;
    for (int i = 0; i < kClients; ++i) {
      clients.emplace_back([&, i] {
        const std::string raw = ask(server.port(), "POST", "/v1/completions", body(i).dump());
        EXPECT_EQ(status_of(raw), 200) << raw;
        EXPECT_EQ(json::parse(body_of(raw))["choices"], alone[i]);
      });
    }
    TestClient leaves(server.port());
    leaves.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                std::to_string(body(0).dump().size()) + "\r\n\r\n" + body(0).dump());
  }
  EXPECT_TRUE(has_rebalanced());
  const json dump =
      json::parse(body_of(ask(server.port(), "POST", "/dump_expert_distribution_record")));
  EXPECT_GT(dump["num_tokens"], 100);
  const json state = get("/expert_balance")["rebalancing"];
  EXPECT_EQ(state["failed"], 0);
  EXPECT_GT(state["longest_pause_seconds"], 0);
  EXPECT_LE(state["last"]["max_over_mean_predicted"], state["last"]["max_over_mean_before"]);
  EXPECT_NE(get("/server_info")["placement_in_force"]["physical_to_logical_map"], first_map);
  const std::string metrics = ask(server.port(), "GET", "/metrics");
  for (const char* name : {"plimsoll_eplb_rebalances_total", "plimsoll_eplb_switched_layers_total",
                           "plimsoll_eplb_longest_pause_seconds"}) {
    EXPECT_NE(metrics.find(name), std::string::npos) << name;
  }
  server.drain();
}

TEST(Metrics, TellOfRebalancesThatFailed) {
  Metrics metrics({.model_name = "m"});
  RebalanceStats stats{.num_rebalances = 2, .num_failed = 1};
  metrics.set_rebalancing(stats);
  stats.num_failed = 3;
  metrics.set_rebalancing(stats);
  const std::string text = metrics.text();
  for (const char* line :
       {"plimsoll_eplb_rebalances_total{model_name=\"m\",result=\"failed\"} 3\n",
        "plimsoll_eplb_rebalances_total{model_name=\"m\",result=\"switched\"} 2\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace plimsoll
