#include "comm/kv_transport.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "comm/deployment_key.h"

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

// A raw connection, as a port scanner or an attacker makes one.
int call(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port))};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  return fd;
}

TEST(KvTransport, LivesThroughAnyBytesAndServesOthers) {
  End server;
  SKIP_WITHOUT_UCX(server);
  const Result<int> port = server->listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok());
  const std::string magic = "PLMKV001";
  const std::string size_then_letters =
      std::string("\x10\0\0\0\0\0\0\0", 8) + std::string(4000, 'A');
  for (const std::string& bytes :
       {std::string(64, '\xff'), std::string(100'000, '\0'), size_then_letters, magic,
        magic + std::string(32, 'n') + std::string(48, '\xff'), magic + std::string(100'000, '\0'),
        std::string("GET / HTTP/1.1\r\n\r\n")}) {
    const int fd = call(*port);
    send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    ::close(fd);
  }
  // More that say nothing than the door lets wait.
  std::vector<int> silent(100);
  for (int& fd : silent) fd = call(*port);
  End client;
  client->send(client->connect("127.0.0.1", *port), {.kind = 1, .id = 1, .payload = pattern(10)});
  EXPECT_EQ(server.wait_for(1).size(), 1u);
  for (const int fd : silent) ::close(fd);
}

TEST(KvTransport, LivesThroughAnAnswererThatIsNone) {
  End client({.heartbeat = milliseconds(20), .max_silence = milliseconds(2000)});
  SKIP_WITHOUT_UCX(client);
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{.sin_family = AF_INET};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&at), size), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size);
  client->send(client->connect("127.0.0.1", ntohs(at.sin_port)), {.kind = 1, .id = 1});
  const int fd = accept(listener, nullptr, nullptr);
  const std::string zeros(64, '\0');
  send(fd, zeros.data(), zeros.size(), MSG_NOSIGNAL);
  EXPECT_NE(client.wait_for_closing().find("no Plimsoll server"), std::string::npos);
  ::close(fd);
  ::close(listener);
}

TEST(KvTransport, MeetsNobodyWhoLacksTheKey) {
  End server({.key = std::string(32, 'k')});
  SKIP_WITHOUT_UCX(server);
  const Result<int> port = server->listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok());
  for (const std::string& key : {std::string(), std::string(32, 'j')}) {
    End stranger({.key = key});
    stranger->send(stranger->connect("127.0.0.1", *port), {.kind = 1, .id = 1});
    EXPECT_NE(stranger.wait_for_closing().find("key"), std::string::npos);
  }
  End member({.key = std::string(32, 'k')});
  member->send(member->connect("127.0.0.1", *port), {.kind = 2, .id = 7});
  const auto heard = server.wait_for(1);
  ASSERT_EQ(heard.size(), 1u);
  EXPECT_EQ(heard[0].kind, 2u);
}

TEST(KvTransport, ListensBeyondThisHostOnlyWithAKey) {
  End server;
  SKIP_WITHOUT_UCX(server);
  const Result<int> port = server->listen("0.0.0.0", 0);
  ASSERT_FALSE(port.ok());
  EXPECT_NE(port.error().message.find("--disaggregation-key-file"), std::string::npos);
}

// The ports on which this process listens at other addresses than 127.0.0.1.
std::string open_ports() {
  std::string found;
  for (const char* name : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream table(name);
    std::string line;
    std::getline(table, line);
    while (std::getline(table, line)) {
      std::istringstream fields(line);
      std::string index, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      fields >> index >> local >> remote >> state >> queues >> timer >> retransmits >> user >>
          timeout >> inode;
      if (state != "0A" || local.starts_with("0100007F:")) continue;
      for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code ignored;
        const auto target = std::filesystem::read_symlink(entry.path(), ignored).string();
        if (target == "socket:[" + inode + "]") found += local + " ";
      }
    }
  }
  return found;
}

TEST(KvTransport, OpensNoPortBeyondItsAddress) {
  End server({.address = "127.0.0.1"});
  SKIP_WITHOUT_UCX(server);
  ASSERT_TRUE(server->listen("127.0.0.1", 0).ok());
  EXPECT_EQ(open_ports(), "");
}

TEST(DeploymentKey, SignsWhatARouterSays) {
  const std::string key(32, 'k');
  const std::string word = *sign(key, "10.0.0.1:8998", 1000);
  EXPECT_EQ(signed_text(key, word, 1000 + kSignatureAge), "10.0.0.1:8998");
  EXPECT_EQ(signed_text(key, word, 1001 + kSignatureAge), "");
  EXPECT_EQ(signed_text(std::string(32, 'j'), word, 1000), "");
  std::string other = word;
  other[0] = '2';
  EXPECT_EQ(signed_text(key, other, 1000), "");
  for (const char* bad : {"", ";", ";;", "10.0.0.1:8998", "10.0.0.1:8998;1000;", ";1000;00"}) {
    EXPECT_EQ(signed_text(key, bad, 1000), "") << bad;
  }
}

}  // namespace
}  // namespace plimsoll
