// The router against scripted servers: whom it asks, what it hands on, and how it goes on when a
// server fails. disaggregation_test.cc has real ones.
#include "serve/pd/router.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "serve/http/http_server.h"
#include "serve/http/http_test_client.h"

namespace plimsoll {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr const char* kCompletions = "/v1/completions";

// A server that calls itself healthy in `role` and completes as it is told to.
class FakeServer {
 public:
  using Complete = std::function<void(const HttpRequest& request, HttpReply& reply)>;

  FakeServer(const std::string& role, Complete complete, int port = 0)
      : http_({}, [=, this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          if (request.path == "/health") {
            const json health = {{"status", "ok"}, {"role", role}, {"bootstrap_port", 1000}};
            return reply->send(200, "application/json", health.dump());
          }
          ++num_requests;
          reply->on_client_left([this] { ++num_left; });
          complete(request, *reply);
          kept_.push_back(reply);
        }) {
    EXPECT_TRUE(http_.start("127.0.0.1", port).ok());
  }
  int port() const { return http_.port(); }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port()); }
  void stop() { http_.stop(); }

  std::atomic<int> num_requests = 0;
  std::atomic<int> num_left = 0;

 private:
  std::vector<std::shared_ptr<HttpReply>> kept_;  // of requests that are never answered
  HttpServer http_;
};

FakeServer::Complete answer(int status, const std::string& text) {
  return [=](const HttpRequest&, HttpReply& reply) { reply.send(status, "text/x", text); };
}

void say_nothing(const HttpRequest&, HttpReply&) {}

class RouterTest : public testing::Test {
 protected:
  void start(const std::vector<std::string>& prefill, const std::vector<std::string>& decode) {
    router_ = std::make_unique<Router>(
        RouterOptions{.port = 0,
                      .prefill_urls = prefill,
                      .decode_urls = decode,
                      .health = {.interval = milliseconds(20), .timeout = milliseconds(300)}});
    ASSERT_TRUE(router_->start().ok());
  }
  json health() { return json::parse(body_of(ask(router_->port(), "GET", "/health"))); }
  // Until as many servers as `num_ready` are.
  void wait_for_ready(int num_ready) {
    int found = -1;
    for (int i = 0; i < 2000 && found != num_ready; ++i) {
      found = 0;
      const json now = health();
      for (const json& server : now["servers"]) found += server["ready"].get<bool>();
      if (found != num_ready) std::this_thread::sleep_for(milliseconds(5));
    }
    ASSERT_EQ(found, num_ready) << health();
  }
  std::string post(const std::string& path = kCompletions) {
    return ask(router_->port(), "POST", path, "{}", "Authorization: Bearer key\r\n");
  }
  void expect_nothing_left() {
    json now;
    for (int i = 0; i < 1000; ++i) {
      now = health();
      int left = 0;
      for (const json& server : now["servers"]) left += server["requests"].get<int>();
      const std::string metrics = body_of(ask(router_->port(), "GET", "/metrics"));
      if (left == 0 && metrics.find("plimsoll_router_requests_in_flight 0\n") != metrics.npos)
        return;
      std::this_thread::sleep_for(milliseconds(5));
    }
    ADD_FAILURE() << now;
  }

  std::unique_ptr<Router> router_;
};

TEST_F(RouterTest, NamesThePrefillServerAndHandsTheAnswerOn) {
  FakeServer prefill("prefill", answer(500, "no"));
  FakeServer decode("decode", [](const HttpRequest& request, HttpReply& reply) {
    const auto said = [&](const char* name) { return std::string(request.header(name)); };
    reply.send(418, "text/x",
               request.method + " " + request.path + " " + request.body + " " +
                   said("x-plimsoll-prefill") + " " + said("authorization"));
  });
  start({prefill.url()}, {decode.url()});
  wait_for_ready(2);
  const std::string completed = post();
  EXPECT_EQ(status_of(completed), 418);
  EXPECT_EQ(body_of(completed), "POST /v1/completions {} 127.0.0.1:1000 Bearer key");
  EXPECT_EQ(body_of(ask(router_->port(), "GET", "/v1/models")), "GET /v1/models   ");
  EXPECT_EQ(status_of(ask(router_->port(), "GET", kCompletions)), 405);
  EXPECT_EQ(status_of(ask(router_->port(), "GET", "/metrix")), 404);
  EXPECT_EQ(prefill.num_requests, 0);
  expect_nothing_left();
}

TEST_F(RouterTest, StreamsAndTellsTheClientWhereAStreamBreaksOff) {
  FakeServer prefill("prefill", say_nothing);
  FakeServer decode("decode", [](const HttpRequest& request, HttpReply& reply) {
    reply.begin_stream(200, "text/event-stream; charset=utf-8");
    reply.write("data: one\n\n");
    if (request.path == kCompletions) return reply.end();
  });
  const std::string decode_url = decode.url();
  start({prefill.url()}, {decode_url});
  wait_for_ready(2);
  const std::string whole = post();
  EXPECT_NE(whole.find("text/event-stream"), whole.npos);
  EXPECT_NE(whole.find("data: one\n\n\r\n0\r\n\r\n"), whole.npos) << whole;
  TestClient client(router_->port());
  client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
  std::string broken;
  while (broken.find("data: one") == broken.npos) broken += client.receive();
  decode.stop();
  while (broken.find("\r\n0\r\n\r\n") == broken.npos) {
    const std::string more = client.receive();
    ASSERT_FALSE(more.empty()) << broken;
    broken += more;
  }
  EXPECT_NE(broken.find("data: {\"error\":"), broken.npos) << broken;
  EXPECT_NE(broken.find("decode server " + decode_url), broken.npos) << broken;
  expect_nothing_left();
}

TEST_F(RouterTest, TriesOthersUntilNoneIsLeft) {
  FakeServer prefill("prefill", say_nothing), other_prefill("prefill", say_nothing);
  std::atomic<bool> any_prefill = true;
  const auto by_prefill = [&](const HttpRequest& request, HttpReply& reply) {
    const bool good = any_prefill && request.header("x-plimsoll-prefill") != "";
    reply.send(good ? 200 : 502, "text/x", good ? "done" : "prefill server gone");
  };
  FakeServer full("decode", answer(429, "full")), loading("decode", answer(503, "loading"));
  FakeServer good("decode", by_prefill);
  start({prefill.url(), other_prefill.url()}, {full.url(), loading.url(), good.url()});
  wait_for_ready(5);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(body_of(post()), "done");
  EXPECT_GT(full.num_requests, 0);
  EXPECT_GT(loading.num_requests, 0);
  any_prefill = false;
  const std::string failed = post();
  EXPECT_EQ(status_of(failed), 502);
  EXPECT_EQ(body_of(failed), "prefill server gone");
  good.stop();
  wait_for_ready(4);
  const int status = status_of(post());
  EXPECT_TRUE(status == 429 || status == 503) << status;
  expect_nothing_left();
}

TEST_F(RouterTest, AServerThatIsGoneIsLeftOutUntilItIsBack) {
  FakeServer prefill("prefill", say_nothing);
  auto decode = std::make_unique<FakeServer>("decode", answer(200, "done"));
  const int port = decode->port();
  start({prefill.url()}, {decode->url()});
  wait_for_ready(2);
  decode.reset();
  const std::string failed = post();
  EXPECT_TRUE(status_of(failed) == 502 || status_of(failed) == 503) << failed;
  EXPECT_NE(failed.find("http://127.0.0.1:" + std::to_string(port)), failed.npos) << failed;
  wait_for_ready(1);
  EXPECT_EQ(status_of(ask(router_->port(), "GET", "/health")), 503);
  decode = std::make_unique<FakeServer>("decode", answer(200, "again"), port);
  wait_for_ready(2);
  EXPECT_EQ(body_of(post()), "again");
  expect_nothing_left();
}

TEST_F(RouterTest, AServerThatHangsLosesItsRequestsToOthers) {
  FakeServer prefill("prefill", say_nothing);
  std::atomic<bool> hangs = false;
  HttpServer hanging({}, [&](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    if (request.path != "/health") hangs = true;
    if (!hangs) reply->send(200, "application/json", R"({"status":"ok","role":"decode"})");
  });
  ASSERT_TRUE(hanging.start("127.0.0.1", 0).ok());
  const std::string hanging_url = "http://127.0.0.1:" + std::to_string(hanging.port());
  FakeServer good("decode", answer(200, "done"));
  start({prefill.url()}, {hanging_url, good.url()});
  wait_for_ready(3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(body_of(post()), "done");
  EXPECT_TRUE(hangs);
  wait_for_ready(2);
  EXPECT_NE(health().dump().find("health checks in a row"), std::string::npos);
  expect_nothing_left();
}

TEST_F(RouterTest, AStreamOfAServerThatHangsEndsWithTheReason) {
  FakeServer prefill("prefill", say_nothing);
  std::atomic<bool> hangs = false;
  std::shared_ptr<HttpReply> stream;  // never ended
  HttpServer hanging({}, [&](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    if (request.path != "/health") {
      hangs = true;
      reply->begin_stream(200, "text/event-stream");
      reply->write("data: begun\n\n");
      stream = std::move(reply);
    } else if (!hangs) {
      reply->send(200, "application/json", R"({"status":"ok","role":"decode"})");
    }
  });
  ASSERT_TRUE(hanging.start("127.0.0.1", 0).ok());
  start({prefill.url()}, {"http://127.0.0.1:" + std::to_string(hanging.port())});
  wait_for_ready(2);
  const std::string streamed = post();
  EXPECT_NE(streamed.find("data: begun"), streamed.npos) << streamed;
  EXPECT_NE(streamed.find("health checks in a row\""), streamed.npos) << streamed;
  expect_nothing_left();
}

TEST_F(RouterTest, AClientThatLeavesIsForgottenEverywhere) {
  FakeServer prefill("prefill", say_nothing), decode("decode", say_nothing);
  start({prefill.url()}, {decode.url()});
  wait_for_ready(2);
  {
    TestClient leaving(router_->port());
    leaving.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    while (decode.num_requests == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  for (int i = 0; i < 2000 && decode.num_left == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(decode.num_left, 1);
  expect_nothing_left();
}

TEST_F(RouterTest, SpreadsRequestsOverServersByTheirLoad) {
  FakeServer prefill("prefill", say_nothing);
  FakeServer busy("decode", say_nothing), idle("decode", answer(200, "done"));
  start({prefill.url()}, {busy.url(), idle.url()});
  wait_for_ready(3);
  TestClient waiting(router_->port());
  waiting.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
  while (busy.num_requests == 0) std::this_thread::sleep_for(milliseconds(1));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(body_of(post()), "done");
  EXPECT_EQ(busy.num_requests, 1);
  waiting.close();
  expect_nothing_left();
}

// What a server says of its health may be anything.
TEST_F(RouterTest, LivesThroughAnyHealth) {
  std::atomic<int> turn = 0;
  const std::vector<std::string> said = {R"({"role":7})",
                                         R"({"role":"prefill","bootstrap_port":"x"})",
                                         R"({"role":"prefill","bootstrap_port":-1})",
                                         R"({"role":"prefill","bootstrap_port":1e300})",
                                         R"({"status":{},"role":[]})",
                                         "[]",
                                         "null",
                                         "\"\\ud800\"",
                                         std::string(100'000, '['),
                                         "{\"role\":\"" + std::string(10'000'000, 'x') + "\"}"};
  HttpServer odd({}, [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    const int i = turn++;
    reply->send(i % 3 == 2 ? 503 : 200, "application/json", said[i % said.size()]);
  });
  ASSERT_TRUE(odd.start("127.0.0.1", 0).ok());
  FakeServer decode("decode", answer(200, "yes"));
  const std::string url = "http://127.0.0.1:" + std::to_string(odd.port());
  start({url}, {decode.url()});
  for (int i = 0; i < 2000 && turn < 40; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_GE(turn, 40);
  wait_for_ready(1);
  EXPECT_EQ(status_of(post()), 503);
}

TEST_F(RouterTest, ServersInOtherRolesAreNotUsed) {
  FakeServer prefill("prefill", say_nothing), alone("", say_nothing);
  start({prefill.url()}, {prefill.url(), alone.url()});
  wait_for_ready(1);
  std::string refused;
  do {
    refused = post();
    EXPECT_EQ(status_of(refused), 503);
  } while (refused.find("it has not answered yet") != refused.npos);
  EXPECT_NE(refused.find("no decode server is ready"), refused.npos) << refused;
  EXPECT_NE(refused.find("it is a prefill server"), refused.npos) << refused;
  EXPECT_NE(refused.find("neither a prefill nor a decode server"), refused.npos) << refused;
}

TEST(Router, RefusesWhatIsNoUrl) {
  Router router({.port = 0, .prefill_urls = {"localhost:1"}, .decode_urls = {}});
  const Status status = router.start();
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("--prefill 'localhost:1'"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
