#include "serve/http/http_server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "serve/http/http_test_client.h"
#include "serve/http/url.h"

namespace plimsoll {
namespace {

class HttpServerTest : public testing::Test {
 protected:
  void serve(HttpLimits limits = {}, HttpGate gate = {}) {
    server_ = std::make_unique<HttpServer>(
        limits,
        [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          if (request.path == "/throws") throw std::runtime_error("as a bad cast would");
          if (request.path == "/stream") {
            reply->begin_stream(200, "text/plain");
            for (int i = 0; i < 3; ++i) reply->write("part" + std::to_string(i) + ";");
            return reply->end();
          }
          if (request.path == "/held") {
            held_ = reply;
            is_held_ = true;
            return;
          }
          if (request.path == "/busy") {
            is_busy_ = true;
            return released_.get_future().wait();
          }
          if (request.path == "/never") {
            held_ = reply;
            is_held_ = true;
            return reply->on_client_left([this] { left_ = true; });
          }
          if (request.path == "/large") {
            reply->send(200, "text/plain", std::string(kLargeBytes, 'x'));
            sent_large_ = true;
            return;
          }
          reply->send(200, "text/plain", request.method + " " + request.path + " " + request.body);
        },
        std::move(gate));
    ASSERT_TRUE(server_->start("127.0.0.1", 0).ok());
  }
  bool soon(const std::function<bool()>& condition) {
    for (int i = 0; i < 200 && !condition(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return condition();
  }

  // More than a stream may leave unsent, and than the kernel takes.
  static constexpr size_t kLargeBytes = 24 << 20;

  std::shared_ptr<HttpReply> held_;  // of the server's thread
  std::atomic<bool> is_held_ = false;
  std::atomic<bool> left_ = false;
  std::atomic<bool> sent_large_ = false;
  std::atomic<bool> is_busy_ = false;
  std::promise<void> released_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  serve();
  TestClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    const std::string answer = client.receive();
    EXPECT_EQ(status_of(answer), 200);
    EXPECT_EQ(body_of(answer), "POST /echo hello");
  }
}

TEST_F(HttpServerTest, StreamsInChunks) {
  serve();
  const std::string answer = ask(server_->port(), "GET", "/stream");
  EXPECT_NE(answer.find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_EQ(body_of(answer), "6\r\npart0;\r\n6\r\npart1;\r\n6\r\npart2;\r\n0\r\n\r\n");
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  serve();
  TestClient client(server_->port());
  client.send(
      "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string both = client.receive_all();
  EXPECT_LT(both.find("GET /a"), both.find("GET /b"));
  EXPECT_NE(both.find("GET /b"), std::string::npos);
}

TEST_F(HttpServerTest, RefusesWhatIsTooLargeOrNoHttp) {
  serve({.max_header_bytes = 1024, .max_body_bytes = 1000});
  EXPECT_EQ(status_of(ask(server_->port(), "POST", "/", std::string(1001, 'x'))), 413);
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/" + std::string(2000, 'x'))), 431);
  TestClient garbage(server_->port());
  garbage.send("\x16\x03\x01 this is not HTTP\r\n\r\n");
  EXPECT_EQ(status_of(garbage.receive_all()), 400);
  TestClient cut(server_->port());
  cut.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  cut.finish_sending();
  EXPECT_EQ(status_of(cut.receive_all()), 400);
  TestClient claims(server_->port());
  claims.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
  EXPECT_EQ(status_of(claims.receive_all()), 413);
}

TEST_F(HttpServerTest, SaysWhyItRefusesToAClientThatGoesOnSending) {
  serve({.max_body_bytes = 1000});
  EXPECT_EQ(status_of(ask(server_->port(), "POST", "/", std::string(kLargeBytes, 'x'))), 413);
}

TEST_F(HttpServerTest, GivesUpOnABodyThatDoesNotComeAfterContinue) {
  serve({.request_timeout = std::chrono::seconds(1)});
  TestClient slow(server_->port());
  slow.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
  EXPECT_EQ(status_of(slow.receive()), 100);
  EXPECT_EQ(status_of(slow.receive_all()), 408);
  TestClient client(server_->port());
  client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
  EXPECT_EQ(status_of(client.receive()), 100);
  client.send("hello");
  EXPECT_EQ(body_of(client.receive()), "POST / hello");
}

TEST_F(HttpServerTest, GivesUpOnASlowRequest) {
  serve({.request_timeout = std::chrono::seconds(1)});
  TestClient slow(server_->port());
  slow.send("GET / HT");
  EXPECT_EQ(status_of(slow.receive_all()), 408);
}

TEST_F(HttpServerTest, NoticesThatAClientLeft) {
  serve();
  {
    TestClient client(server_->port());
    client.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  }
  EXPECT_TRUE(soon([&] { return left_.load(); }));
  EXPECT_TRUE(soon([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpServerTest, NoticesThatAClientLeftAfterOneMoreByte) {
  serve();
  {
    TestClient client(server_->port());
    client.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\nG");
    ASSERT_TRUE(soon([&] { return is_held_.load(); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_TRUE(soon([&] { return left_.load(); }));
  EXPECT_TRUE(soon([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpServerTest, AnswersAnExpectedBodyThatIsEmpty) {
  serve();
  TestClient client(server_->port());
  for (int i = 0; i < 2; ++i) {
    client.send("POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(body_of(client.receive()), "POST /a ");
  }
}

TEST_F(HttpServerTest, RefusesHeadsThatTwoReadersCouldUnderstandDifferently) {
  serve();
  const std::string smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
  for (const std::string head :
       {"Host: x\r\nTransfer-Encoding: xchunked\r\n", "Host: x\r\nTransfer-Encoding: gzip\r\n",
        "Host: x\r\nTransfer-Encoding: chunked, identity\r\n",
        "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "",
        "Host: x\r\nHost: y\r\n", "Host: x\r\nAuthorization: a\r\nAuthorization: b\r\n"}) {
    TestClient client(server_->port());
    client.send("POST / HTTP/1.1\r\n" + head + "\r\n" + smuggled);
    client.finish_sending();
    const std::string answer = client.receive_all();
    EXPECT_EQ(status_of(answer), 400) << head;
    EXPECT_EQ(answer.find("/smuggled"), answer.npos) << head;
  }
  std::string fields;
  for (int i = 0; i < 1200; ++i) fields += "a: 0123456789\r\n";
  TestClient client(server_->port());
  client.send("GET / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n");
  EXPECT_EQ(status_of(client.receive_all()), 431);
  EXPECT_EQ(body_of(ask(server_->port(), "GET", "http://x/path")), "GET /path ");
}

TEST_F(HttpServerTest, WhatThrowsIsAnswered500AndEndsNothing) {
  serve();
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/throws")), 500);
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/")), 200);
}

TEST_F(HttpServerTest, BodiesShareABudget) {
  serve({.max_body_bytes = 1 << 20, .max_body_memory_bytes = 3 << 20});
  const std::string head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
  std::vector<std::unique_ptr<TestClient>> halves;
  for (int i = 0; i < 10; ++i) {
    halves.push_back(std::make_unique<TestClient>(server_->port()));
    halves.back()->send(head + std::string(500'000, 'x'));
  }
  // Six halves fit. Which ones depends on what comes when; those that are kept wait for the rest.
  std::vector<std::string> answers(halves.size());
  EXPECT_TRUE(soon([&] {
    for (size_t i = 0; i < halves.size(); ++i) answers[i] += halves[i]->receive_now();
    return std::ranges::count_if(answers, [](const std::string& a) { return !a.empty(); }) >= 4;
  }));
  for (const std::string& answer : answers) {
    if (answer.empty()) continue;
    EXPECT_EQ(status_of(answer), 503);
    EXPECT_NE(answer.find("Retry-After: 1"), answer.npos);
  }
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/")), 200) << "what has no body is answered";
  halves.clear();
  EXPECT_TRUE(soon([&] {
    return status_of(ask(server_->port(), "POST", "/", std::string(1'000'000, 'x'))) == 200;
  }));
}

TEST_F(HttpServerTest, AsksTheGateBeforeItReadsABody) {
  serve({}, [](const HttpRequest& head) -> std::optional<HttpRefusal> {
    if (head.header("authorization") == "Bearer key") return std::nullopt;
    return HttpRefusal{401, "no key"};
  });
  TestClient client(server_->port());
  client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(status_of(client.receive()), 401) << "without a byte of the body";
  EXPECT_EQ(body_of(ask(server_->port(), "POST", "/", "x", "Authorization: Bearer key\r\n")),
            "POST / x");
}

TEST_F(HttpServerTest, OneAddressCannotTakeAllConnections) {
  serve({.max_connections = 4});
  std::vector<std::unique_ptr<TestClient>> greedy;
  for (int i = 0; i < 3; ++i) {
    greedy.push_back(std::make_unique<TestClient>(server_->port()));
    greedy.back()->send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(soon([&] { return server_->num_connections() == i + 1; }));
  }
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  TestClient one_more(server_->port());
  EXPECT_EQ(one_more.receive(), "") << "it is closed at once";
  TestClient other(server_->port(), "127.0.0.2");
  other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(status_of(other.receive()), 200);
}

TEST_F(HttpServerTest, AnswersAClientThatHasNoMoreToSend) {
  serve();
  TestClient client(server_->port());
  client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  client.finish_sending();
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // it is seen to have none
  held_->send(200, "text/plain", "all the same");
  EXPECT_EQ(body_of(client.receive()), "all the same");

  is_held_ = false;
  TestClient leaving(server_->port());
  leaving.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  leaving.finish_sending();
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  held_->on_client_left([this] { left_ = true; });
  EXPECT_TRUE(soon([&] { return left_.load(); }));
}

TEST_F(HttpServerTest, SendsAWholeAnswerOfAnySize) {
  serve();
  EXPECT_EQ(body_of(ask(server_->port(), "GET", "/large")).size(), kLargeBytes);
}

TEST_F(HttpServerTest, GivesUpAStreamThatNobodyReads) {
  serve();
  TestClient client(server_->port());
  client.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  held_->begin_stream(200, "text/plain");
  for (size_t sent = 0; sent < kLargeBytes; sent += 1 << 20) {
    held_->write(std::string(1 << 20, 'x'));
  }
  EXPECT_TRUE(soon([&] { return left_.load(); }));
}

// Pieces that the writing thread sends, those that must wait for the client, and those behind them.
TEST_F(HttpServerTest, KeepsTheOrderOfAStreamThatIsReadSlowly) {
  serve({.max_unsent_bytes = 64 << 20});
  TestClient client(server_->port());
  client.send("GET /held HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  std::string expected;
  std::promise<void> half;
  std::jthread writer([&, reply = held_] {
    reply->begin_stream(200, "text/plain");
    for (int i = 0; i < 3000; ++i) {
      const std::string piece = std::to_string(i) + std::string(i % 3 == 0 ? 24'000 : 20, '.');
      expected += piece;
      reply->write(piece);
      if (i == 1500) half.set_value();
      if (i > 1500 && i % 300 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    reply->end();
  });
  half.get_future().wait();  // more than the kernel takes
  const std::string answer = client.receive_all();
  writer.join();
  EXPECT_TRUE(body_of(answer) == expected);
}

TEST_F(HttpServerTest, SendsAPieceWhileItsThreadIsBusy) {
  serve();
  TestClient client(server_->port()), other(server_->port());
  client.send("GET /held HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  held_->begin_stream(200, "text/plain");
  client.receive();
  other.send("GET /busy HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(soon([&] { return is_busy_.load(); }));
  held_->write("now");
  EXPECT_EQ(client.receive(), "now");
  released_.set_value();
  held_->end();
  EXPECT_EQ(client.receive_all(), "");
}

TEST_F(HttpServerTest, ClosesAConnectionThatIsBeingWrittenTo) {
  serve();
  for (int i = 0; i < 20; ++i) {
    is_held_ = left_ = false;
    auto client = std::make_unique<TestClient>(server_->port());
    client->send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(soon([&] { return is_held_.load(); }));
    std::jthread writer([&, reply = held_] {
      reply->begin_stream(200, "text/plain");
      while (!left_) reply->write("piece");
    });
    client->receive();
    client.reset();
    EXPECT_TRUE(soon([&] { return left_.load(); }));
    left_ = true;
  }
  EXPECT_TRUE(soon([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpServerTest, AnswersHeadWithTheHeadAlone) {
  serve();
  const auto head_of = [](const std::string& answer) {
    return answer.substr(0, answer.find("\r\n\r\n"));
  };
  for (const char* path : {"/large", "/stream"}) {
    const std::string answer = ask(server_->port(), "HEAD", path);
    EXPECT_EQ(head_of(answer), head_of(ask(server_->port(), "GET", path)));
    EXPECT_EQ(body_of(answer), "");
  }
  TestClient client(server_->port());
  client.send(
      "HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.receive_all().ends_with("GET /next "));
}

TEST_F(HttpServerTest, FinishesSendingBeforeItEnds) {
  serve();
  TestClient client(server_->port());
  client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(soon([&] { return sent_large_.load(); }));
  const std::jthread ending([&] { server_->drain(); });
  EXPECT_TRUE(soon([&] { return !TestClient(server_->port()).connected(); }));
  EXPECT_EQ(body_of(client.receive_all()).size(), kLargeBytes);
}

TEST_F(HttpServerTest, WaitsNoLongerThanItMayForAClientThatDoesNotRead) {
  serve({.write_timeout = std::chrono::seconds(1)});
  TestClient client(server_->port());
  client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(soon([&] { return sent_large_.load(); }));
  server_->drain();
  EXPECT_LT(client.receive_all().size(), kLargeBytes);
}

TEST_F(HttpServerTest, IdleConnectionsDoNotStopNewOnes) {
  serve();
  std::vector<std::unique_ptr<TestClient>> idle;
  for (int i = 0; i < 400; ++i) {
    idle.push_back(std::make_unique<TestClient>(server_->port()));
    ASSERT_TRUE(idle.back()->connected());
  }
  EXPECT_EQ(status_of(ask(server_->port(), "GET", "/")), 200);
}

TEST_F(HttpServerTest, ClosesTheIdlestConnectionForANewClient) {
  serve({.max_connections = 4});
  TestClient busy(server_->port());
  busy.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(soon([&] { return is_held_.load(); }));
  std::vector<std::unique_ptr<TestClient>> idle;
  for (int i = 0; i < 20; ++i) {
    idle.push_back(std::make_unique<TestClient>(server_->port()));
    idle.back()->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(status_of(idle.back()->receive()), 200);
  }
  EXPECT_EQ(idle.front()->receive_all(), "") << "it was closed";
  idle.back()->send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(status_of(idle.back()->receive()), 200);
  held_->send(200, "text/plain", "at last");
  EXPECT_EQ(body_of(busy.receive()), "at last");
}

TEST_F(HttpServerTest, GivesUpAClientThatTakesNothing) {
  serve({.write_timeout = std::chrono::seconds(1)});
  TestClient client(server_->port());
  client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(soon([&] { return sent_large_.load() && server_->num_connections() == 0; }));
  EXPECT_LT(client.receive_all().size(), kLargeBytes);
}

TEST_F(HttpServerTest, SaysWhyItCannotListen) {
  serve();
  HttpServer second({}, [](HttpRequest, std::shared_ptr<HttpReply>) {});
  EXPECT_NE(second.start("127.0.0.1", server_->port()).error().message.find("in use"),
            std::string::npos);
  EXPECT_FALSE(second.start("localhost", 0).ok());
}

TEST(Url, SplitsPathAndQuery) {
  std::string path;
  std::map<std::string, std::string> query;
  split_target("/a/b?x=1&y=%20z+&flag&bad=%2", path, query);
  EXPECT_EQ(path, "/a/b");
  EXPECT_EQ(query["x"], "1");
  EXPECT_EQ(query["y"], " z ");
  EXPECT_EQ(query["flag"], "");
  EXPECT_EQ(query["bad"], "%2");
}

}  // namespace
}  // namespace plimsoll
