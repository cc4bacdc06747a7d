// bench-serving against our own server, and against servers that answer oddly.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "options/commands.h"
#include "requests/serving_report.h"
#include "serve/http/http_test_server.h"
#include "serve/server.h"

namespace plimsoll {
namespace {

const std::string kRoot = PLIMSOLL_SOURCE_DIR;

std::string stream_answer(const std::string& events) {
  return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events;
}

std::string url_of(int port) {
  return "http://127.0.0.1:" + std::to_string(port);
}

// What became of one request that is answered with `bytes`.
RequestRecord record_of(const std::string& bytes) {
  ScriptedServer server([&](const std::string&) { return bytes; });
  const auto run = run_load({.server = *parse_http_url(url_of(server.port())), .bodies = {"{}"}},
                            [](int64_t) {});
  return run->requests.at(0);
}

TEST(PoissonArrivals, AreSeededAndKeepTheRate) {
  const std::vector<double> arrivals = poisson_arrivals(20001, 50, 7);
  EXPECT_EQ(arrivals.front(), 0);
  EXPECT_NEAR(arrivals.back(), 400, 400 * 0.03);  // four standard deviations are 2.8 %
  EXPECT_TRUE(std::ranges::is_sorted(arrivals));
  EXPECT_EQ(arrivals, poisson_arrivals(20001, 50, 7));
  EXPECT_NE(arrivals, poisson_arrivals(20001, 50, 8));
  // As long waits as an exponential distribution has: a part 1/e is above the mean.
  int64_t num_long = 0;
  for (size_t i = 1; i < arrivals.size(); ++i) num_long += arrivals[i] - arrivals[i - 1] > 1 / 50.0;
  EXPECT_NEAR(static_cast<double>(num_long) / 20000, std::exp(-1), 0.015);
  EXPECT_EQ(poisson_arrivals(3, INFINITY, 1), std::vector<double>(3, 0.0));
}

TEST(StreamedAnswer, CountsTokensFromUsageOrElsePieces) {
  const std::string pieces =
      "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
      "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
      "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"b\"}}]}\n\n"
      "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
  const RequestRecord bare = record_of(stream_answer(pieces));  // without [DONE], as some end
  EXPECT_EQ(bare.error, "");
  EXPECT_EQ(bare.num_tokens, 2);
  EXPECT_FALSE(bare.has_usage);
  EXPECT_EQ(bare.inter_token_s.size(), 1u);
  const RequestRecord counted = record_of(stream_answer(
      pieces +
      "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5}}\n\n"
      "data: [DONE]\n\n"));
  EXPECT_EQ(counted.num_tokens, 5);
  EXPECT_EQ(counted.num_prompt_tokens, 9);
  EXPECT_GE(counted.end_s, counted.first_token_s);
  EXPECT_EQ(counted.time_per_output_token_s(), (counted.end_s - counted.first_token_s) / 4);
}

TEST(StreamedAnswer, ExplainsEveryOddAnswer) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "closed the connection"},
      {"HTTP/1.1 429 Too Many\r\n\r\n{\"error\":{\"message\":\"the queue is full\"}}",
       "HTTP 429: the queue is full"},
      {"HTTP/1.1 404 Not Found\r\n\r\n{\"detail\":\"Not Found\"}", "HTTP 404: Not Found"},
      {"HTTP/1.1 502 Bad\r\n\r\n<html>\nsorry", "HTTP 502: <html>"},
      {"HTTP/1.1 500 No\r\n\r\n", "HTTP 500: without a word"},
      {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}", "a stream"},
      {stream_answer("data: {\"choices\":[{\"text\":\"a\"}]}\n\n"), "without a finish reason"},
      {stream_answer("data: nonsense\n\n"), "no JSON object"},
      {stream_answer("data: [1]\n\n"), "no JSON object"},
      {stream_answer("data: {\"error\":{\"message\":\"out of memory\"}}\n\n"), "out of memory"},
      {stream_answer("data: {\"choices\":[1,{\"delta\":2},{\"text\":3}],\"usage\":4}\n\n"),
       "without a finish reason"},
  };
  for (const auto& [bytes, why] : cases) {
    const RequestRecord record = record_of(bytes);
    EXPECT_NE(record.error.find(why), std::string::npos) << bytes << "\n" << record.error;
  }
}

TEST(ServingReport, SumsUpByHand) {
  ServingRun run{.duration_s = 2, .peak_concurrency = 3};
  run.requests = {{.first_token_s = 0.1, .end_s = 0.5, .num_tokens = 5, .has_usage = true},
                  {.first_token_s = 0.3, .end_s = 0.4, .num_tokens = 2, .has_usage = true},
                  {.error = "gone"}};
  run.requests[0].inter_token_s = {0.1, 0.1, 0.1, 0.1};
  run.requests[0].num_prompt_tokens = 10;
  const auto limits = [](const char* text) { return *parse_objective(text); };
  const ServingReport report = summarize(run, {limits("ttft:200"), limits("tpot:100.5")});
  EXPECT_EQ(report.num_completed, 2);
  EXPECT_EQ(report.errors.at("gone"), 1);
  EXPECT_EQ(report.num_good, 1);  // the second one's first token came late
  EXPECT_EQ(report.num_tokens, 7);
  EXPECT_DOUBLE_EQ(report.ttft_ms.mean, 200);
  EXPECT_DOUBLE_EQ(report.tpot_ms.p99, 100);
  EXPECT_EQ(to_json(report)["requests_per_s"], 1);
  EXPECT_EQ(to_json(report)["goodput_requests_per_s"], 0.5);
  EXPECT_NE(as_text(report).find("1 failed: gone"), std::string::npos);
  for (const char* bad : {"ttft", "ttft:", "ttft:x", "ttft:-1", "itl:5", "ttft:5ms", ":5"}) {
    EXPECT_FALSE(parse_objective(bad)) << bad;
  }
}

class BenchServing : public testing::Test {
 protected:
  void SetUp() override {
    server_.emplace(ServerOptions{.port = 0, .api_key = "key", .served_model_name = "demo"});
    ASSERT_TRUE(server_->start());
    const std::string model = kRoot + "/demo/model";
    auto engine = Engine::create({.model_dir = model, .ep_size = 2, .pin_ranks = false});
    ASSERT_TRUE(engine) << engine.error().message;
    server_->serve(std::move(*engine), *Tokenizer::load(model + "/tokenizer.json"));
    settings_.load.base_url = url_of(server_->port()) + "/v1";
    settings_.load.result_file = testing::TempDir() + "plimsoll_bench_serving.json";
    settings_.input.dataset = {kRoot + "/demo/prompts"};
    settings_.serve.api_key = "key";
    settings_.sampling.max_tokens = 4;
    settings_.json = true;
  }

  Json result_of(const Settings& settings, int expected_status = kExitDone) {
    testing::internal::CaptureStdout();
    const auto status = run_bench_serving(settings);
    const std::string out = testing::internal::GetCapturedStdout();
    EXPECT_TRUE(status) << status.error().message;
    EXPECT_EQ(status.ok() ? *status : -1, expected_status);
    std::ifstream file(settings.load.result_file);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), out);
    return Json::parse(out, nullptr, false);
  }

  std::optional<Server> server_;
  Settings settings_;
};

TEST_F(BenchServing, MeasuresOurOwnServer) {
  settings_.input.num_prompts = 100;  // more streams at once than a page of file descriptors
  settings_.load.ignore_eos = true;
  settings_.load.goodput = {"ttft:600000", "e2el:600000"};
  const Json completions = result_of(settings_);
  EXPECT_EQ(completions["completed"], 100);
  EXPECT_EQ(completions["peak_concurrency"], 100);
  EXPECT_EQ(completions["generated_tokens"], 400);
  EXPECT_TRUE(completions["tokens_from_usage"]);
  EXPECT_EQ(completions["good"], 100);
  EXPECT_GT(completions["prompt_tokens"], 100);
  EXPECT_GE(completions["e2e_ms"]["p99"], completions["ttft_ms"]["p50"]);

  settings_.load.endpoint = "/v1/chat/completions";
  settings_.load.max_concurrency = 3;
  settings_.load.request_rate = 500;
  settings_.input.num_prompts = 12;
  const Json chat = result_of(settings_);
  EXPECT_EQ(chat["completed"], 12);
  EXPECT_LE(chat["peak_concurrency"], 3);
}

TEST_F(BenchServing, SaysWhatIsWrongBeforeTheLoad) {
  const auto message_of = [&](const Settings& settings) {
    const auto status = run_bench_serving(settings);
    return status ? "" : status.error().message;
  };
  Settings wrong = settings_;
  wrong.serve.api_key = "guess";
  EXPECT_NE(message_of(wrong).find("HTTP 401"), std::string::npos);
  wrong = settings_;
  wrong.load.goodput = {"speed:1"};
  EXPECT_NE(message_of(wrong).find("ttft:500 tpot:50"), std::string::npos);
  server_.reset();
  EXPECT_NE(message_of(settings_).find("is the server running"), std::string::npos);
}

TEST_F(BenchServing, FailsWhereRequestsFailAndCountsThemByReason) {
  settings_.input.num_prompts = 3;
  settings_.sampling.temperature = 1000;  // more than the server takes
  const Json result = result_of(settings_, kExitFailed);
  EXPECT_EQ(result["failed"], 3);
  int64_t num_explained = 0;
  for (const auto& [error, count] : result["errors"].items()) {
    EXPECT_NE(error.find("HTTP 400"), std::string::npos) << error;
    num_explained += count.get<int64_t>();
  }
  EXPECT_EQ(num_explained, 3);
}

}  // namespace
}  // namespace plimsoll
