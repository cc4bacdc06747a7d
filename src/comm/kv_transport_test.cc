#include "comm/kv_transport.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

namespace plimsoll {
namespace {

using std::chrono::milliseconds;

std::vector<std::byte> pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 251);
  return bytes;
}

// One end of a connection, and what it has heard.
class End {
 public:
  explicit End(KvOptions options = {}) {
    auto transport = KvTransport::create(options, {.on_message =
                                                       [this](KvPeer peer, KvMessage message) {
                                                         const std::lock_guard lock(mutex_);
                                                         last_peer_ = peer;
                                                         messages_.push_back(std::move(message));
                                                         changed_.notify_all();
                                                       },
                                                   .on_closed =
                                                       [this](KvPeer, const Error& why) {
                                                         const std::lock_guard lock(mutex_);
                                                         closed_.push_back(why.message);
                                                         changed_.notify_all();
                                                       },
                                                   .on_tick = [] {}});
    if (transport.ok()) {
      transport_ = std::move(*transport);
    } else {
      refusal_ = transport.error().message;
    }
  }
  ~End() { transport_.reset(); }

  KvTransport* operator->() { return transport_.get(); }
  explicit operator bool() const { return transport_ != nullptr; }
  void stop() { transport_.reset(); }

  std::vector<KvMessage> wait_for(size_t num_messages) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60),
                      [&] { return messages_.size() >= num_messages; });
    return messages_;
  }
  std::string wait_for_closing() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return !closed_.empty(); });
    return closed_.empty() ? "" : closed_.front();
  }
  KvPeer last_peer() {
    const std::lock_guard lock(mutex_);
    return last_peer_;
  }

  std::string refusal_;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<KvMessage> messages_;
  std::vector<std::string> closed_;
  KvPeer last_peer_ = 0;
  std::unique_ptr<KvTransport> transport_;
};

#define SKIP_WITHOUT_UCX(end) \
  if (!(end)) GTEST_SKIP() << (end).refusal_

class KvWays : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(, KvWays, testing::Bool(), [](const auto& way) {
  return way.param ? "SharedMemory" : "Network";
});

TEST_P(KvWays, CarryMessagesOfAnySizeBothWays) {
  End server({.shared_memory = GetParam()}), client({.shared_memory = GetParam()});
  SKIP_WITHOUT_UCX(server);
  const Result<int> port = server->listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok()) << port.error().message;
  const KvPeer peer = client->connect("127.0.0.1", *port);
  const std::vector<size_t> sizes = {0, 1, 1000, 70'000, 9'000'000};
  for (size_t i = 0; i < sizes.size(); ++i) {
    client->send(peer, {.kind = 3, .id = static_cast<int64_t>(i), .payload = pattern(sizes[i])});
  }
  const auto there = server.wait_for(sizes.size());
  ASSERT_EQ(there.size(), sizes.size());
  for (const KvMessage& message : there) {
    EXPECT_EQ(message.kind, 3u);
    EXPECT_EQ(message.payload, pattern(sizes.at(message.id)));
    server->send(server.last_peer(), message);
  }
  const auto back = client.wait_for(sizes.size());
  ASSERT_EQ(back.size(), sizes.size());
  for (const KvMessage& message : back) EXPECT_EQ(message.payload, pattern(sizes.at(message.id)));
}

TEST_P(KvWays, TellWhenThePeerCloses) {
  End server({.shared_memory = GetParam()}), client({.shared_memory = GetParam()});
  SKIP_WITHOUT_UCX(server);
  const Result<int> port = server->listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok());
  client->send(client->connect("127.0.0.1", *port), {.kind = 1, .id = 1, .payload = pattern(10)});
  ASSERT_EQ(server.wait_for(1).size(), 1u);
  client.stop();
  EXPECT_FALSE(server.wait_for_closing().empty());
}

TEST(KvTransport, TellsWhenNobodyListens) {
  End client({.heartbeat = milliseconds(20), .max_silence = milliseconds(500)});
  SKIP_WITHOUT_UCX(client);
  client->send(client->connect("127.0.0.1", 1), {.kind = 1, .id = 1, .payload = pattern(10)});
  EXPECT_FALSE(client.wait_for_closing().empty());
}

// A peer whose heartbeats are rarer than our patience looks like one that hangs.
TEST(KvTransport, TellsWhenThePeerFallsSilent) {
  End server({.heartbeat = milliseconds(60'000)});
  End client({.heartbeat = milliseconds(20), .max_silence = milliseconds(300)});
  SKIP_WITHOUT_UCX(server);
  const Result<int> port = server->listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok());
  client->send(client->connect("127.0.0.1", *port), {.kind = 1, .id = 1, .payload = pattern(10)});
  EXPECT_NE(client.wait_for_closing().find("no sign of life for 300 ms"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
