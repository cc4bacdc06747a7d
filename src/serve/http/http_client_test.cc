#include "serve/http/http_client.h"

#include <gtest/gtest.h>

#include "serve/http/http_server.h"
#include "serve/http/http_test_server.h"

namespace plimsoll {
namespace {

TEST(HttpUrl, HasHostPortAndPrefix) {
  const auto url = parse_http_url("http://localhost:8000/a/b/");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->host, "localhost");
  EXPECT_EQ(url->port, 8000);
  EXPECT_EQ(url->prefix, "/a/b");
  EXPECT_EQ(parse_http_url("http://example.org")->port, 80);
  EXPECT_EQ(parse_http_url("http://[::1]:81")->host, "::1");
  EXPECT_EQ(parse_http_url("http://[::1]:81")->text(), "http://[::1]:81");
  for (const char* bad : {"localhost:8000", "http://", "http://h:0", "http://h:99999", "http://h:x",
                          "http://a b", "http://h\r\nX: y", "ftp://h", ""}) {
    EXPECT_FALSE(parse_http_url(bad)) << bad;
  }
  EXPECT_NE(parse_http_url("https://h").error().message.find("TLS"), std::string::npos);
}

HttpUrl at_port(int port) {
  return {.host = "127.0.0.1", .port = port};
}

TEST(HttpClient, AsksAndHearsWholeAnswersAndStreams) {
  HttpServer server({}, [](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    if (request.path != "/stream") {
      const std::string token(request.header("authorization"));
      return reply->send(201, "text/x", request.method + request.body + token);
    }
    reply->begin_stream(200, "text/event-stream");
    for (int i = 0; i < 100; ++i) reply->write(std::string(1000, 'x'));
    reply->end();
  });
  ASSERT_TRUE(server.start("127.0.0.1", 0));
  const auto whole =
      http_ask(at_port(server.port()),
               {.method = "POST", .path = "/echo", .body = "{\"a\":1}", .bearer_token = "key"});
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(whole->status, 201);
  EXPECT_EQ(whole->content_type, "text/x");
  EXPECT_EQ(whole->body, "POST{\"a\":1}Bearer key");
  const auto stream = http_ask(at_port(server.port()), {.path = "/stream"});
  ASSERT_TRUE(stream) << stream.error().message;
  EXPECT_EQ(stream->body, std::string(100'000, 'x'));
}

TEST(HttpClient, SaysWhyThereIsNoAnswer) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "closed the connection"},
      {"SSH-2.0-OpenSSH\r\n", "no valid HTTP"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "broke off"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke off"},
  };
  for (const auto& [bytes, why] : cases) {
    ScriptedServer server([&](const std::string&) { return bytes; });
    const auto answer = http_ask(at_port(server.port()), {.path = "/"});
    ASSERT_FALSE(answer) << bytes;
    EXPECT_NE(answer.error().message.find(why), std::string::npos) << answer.error().message;
  }
  int free_port;
  {
    ScriptedServer gone([](const std::string&) { return ""; });
    free_port = gone.port();
  }
  const auto refused = http_ask(at_port(free_port), {.path = "/"});
  EXPECT_NE(refused.error().message.find("refused"), std::string::npos);
}

TEST(HttpClient, GivesUpOnASilentServer) {
  HttpServer server({}, [](HttpRequest, std::shared_ptr<HttpReply>) {});
  ASSERT_TRUE(server.start("127.0.0.1", 0));
  const auto answer =
      http_ask(at_port(server.port()), {.path = "/", .timeout = std::chrono::milliseconds(50)});
  ASSERT_FALSE(answer);
  EXPECT_NE(answer.error().message.find("nothing came"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
