// Running prefill and decode servers that do not fit together refuse each other, and say why.
#include <gtest/gtest.h>

#include <condition_variable>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>

#include "comm/deployment_key.h"
#include "serve/loop/hand_over.h"
#include "serve/pd/disaggregation_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
constexpr auto kLimit = std::chrono::seconds(60);
const json kCompletion = {{"prompt", "x"}, {"max_tokens", 4}, {"temperature", 0}};

// One end of a connection, in place of a server: what it hears, and whether it was closed.
class BareEnd {
 public:
  static std::unique_ptr<BareEnd> create() {
    auto end = std::make_unique<BareEnd>();
    auto transport = KvTransport::create({}, {.on_message =
                                                  [e = end.get()](KvPeer peer, KvMessage message) {
                                                    e->hear(peer, std::move(message));
                                                  },
                                              .on_closed =
                                                  [e = end.get()](KvPeer, const Error&) {
                                                    const std::lock_guard lock(e->mutex_);
                                                    e->closed_ = true;
                                                    e->changed_.notify_all();
                                                  },
                                              .on_tick = [] {}});
    if (!transport.ok()) return nullptr;
    end->transport = std::move(*transport);
    return end;
  }
  ~BareEnd() { transport.reset(); }

  // The next message; of kind 0 once the connection is closed.
  KvMessage receive() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kLimit, [&] { return !heard_.empty() || closed_; });
    if (heard_.empty()) return {};
    KvMessage message = std::move(heard_.front());
    heard_.erase(heard_.begin());
    return message;
  }

  std::function<void(KvPeer, const KvMessage&)> answer;  // set before the first message can come
  std::unique_ptr<KvTransport> transport;

 private:
  void hear(KvPeer peer, KvMessage message) {
    if (answer) answer(peer, message);
    const std::lock_guard lock(mutex_);
    heard_.push_back(std::move(message));
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<KvMessage> heard_;
  bool closed_ = false;
};

class HandshakeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    prefill_ = make_server("prefill", {});
    if (prefill_) decode_ = make_server("decode", {});
  }
  static void TearDownTestSuite() {
    decode_.reset();
    prefill_.reset();
  }
  void SetUp() override {
    if (!prefill_) GTEST_SKIP() << "this build has no UCX";
  }

  // The hello of the decode server, as a prefill server hears it.
  static HelloMessage true_hello() {
    const auto listener = BareEnd::create();
    const Result<int> port = listener->transport->listen("127.0.0.1", 0);
    EXPECT_TRUE(port.ok());
    listener->answer = [end = listener.get()](KvPeer peer, const KvMessage& message) {
      if (message.kind == kHello) end->transport->close(peer);
    };
    post_apart(*decode_, "127.0.0.1:" + std::to_string(*port), "/v1/completions", kCompletion);
    HelloMessage hello;
    EXPECT_TRUE(decode(listener->receive().payload, hello));
    return hello;
  }

  static inline std::unique_ptr<Server> prefill_, decode_;
};

// What a running prefill server answers to decode servers of other builds and flags.
TEST_F(HandshakeTest, APrefillServerRefusesWhoDoesNotFit) {
  const HelloMessage fitting = true_hello();
  const auto welcome_for = [&](auto change) {
    HelloMessage hello = fitting;
    change(hello);
    const auto end = BareEnd::create();
    const KvPeer peer = end->transport->connect("127.0.0.1", bootstrap_port(*prefill_));
    end->transport->send(peer, {.kind = kHello, .payload = encode(hello)});
    const KvMessage answer = end->receive();
    WelcomeMessage welcome;
    EXPECT_EQ(answer.kind, kWelcome);
    EXPECT_TRUE(decode(answer.payload, welcome));
    if (!welcome.refusal.empty()) {  // and means it
      end->transport->send(peer, {.kind = kPrompt, .id = 1, .payload = encode(PromptMessage{})});
      EXPECT_EQ(end->receive().kind, 0u);
    }
    return welcome.refusal;
  };
  EXPECT_EQ(welcome_for([](HelloMessage&) {}), "");
  EXPECT_NE(welcome_for([](HelloMessage& h) {
              h.version = "0.0.1";
            }).find("the other server's is 0.0.1; start both alike"),
            std::string::npos);
  EXPECT_NE(welcome_for([](HelloMessage& h) { ++h.model; }).find("give both the same --model"),
            std::string::npos);
  EXPECT_NE(welcome_for([](HelloMessage& h) {
              h.deepep_mode = "auto";
            }).find("runs with --deepep-mode auto, expected low_latency"),
            std::string::npos);
  EXPECT_NE(welcome_for([](HelloMessage& h) {
              h.role = "prefill";
            }).find("both servers are prefill servers"),
            std::string::npos);
}

// Two running servers whose models differ in a byte.
TEST_F(HandshakeTest, AnotherModelIsRefused) {
  const fs::path model = fs::path(testing::TempDir()) / "handshake_test_model";
  fs::remove_all(model);
  fs::create_directories(model);
  for (const auto& file : fs::directory_iterator(kModel)) {
    if (file.path().filename() == "config.json") {
      fs::copy_file(file, model / "config.json");
      std::ofstream(model / "config.json", std::ios::app) << "\n";
    } else {
      fs::create_symlink(file.path(), model / file.path().filename());
    }
  }
  const auto other = make_server("decode", {}, model);
  const std::string refused =
      post_apart(*other, bootstrap_address(*prefill_), "/v1/completions", kCompletion);
  EXPECT_EQ(status_of(refused), 502) << refused;
  EXPECT_NE(refused.find("it refuses this decode server: the servers have loaded different models; "
                         "give both the same --model"),
            std::string::npos)
      << refused;
  // The servers that fit are none the worse for it.
  EXPECT_EQ(
      status_of(post_apart(*decode_, bootstrap_address(*prefill_), "/v1/completions", kCompletion)),
      200);
  fs::remove_all(model);
}

// Servers whose states would travel by unlike ways do not come as far as a hello.
TEST_F(HandshakeTest, AnotherTransferBackendIsSuspected) {
  const auto other = make_server("decode", {}, kModel, "ucx_shm");
  const std::string refused =
      post_apart(*other, bootstrap_address(*prefill_), "/v1/completions", kCompletion);
  EXPECT_EQ(status_of(refused), 502) << refused;
  EXPECT_NE(refused.find("with --disaggregation-transfer-backend ucx_shm as this decode server"),
            std::string::npos)
      << refused;
  EXPECT_EQ(
      status_of(post_apart(*decode_, bootstrap_address(*prefill_), "/v1/completions", kCompletion)),
      200);
}

// A decode server whose prefill server is of another version tells its client so.
TEST_F(HandshakeTest, ClientsHearWhyThePairDoesNotWork) {
  const auto end = BareEnd::create();
  const Result<int> port = end->transport->listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok()) << port.error().message;
  end->answer = [&](KvPeer peer, const KvMessage& message) {
    HelloMessage theirs;
    if (message.kind != kHello || !decode(message.payload, theirs)) return;
    const HelloMessage ours{
        .version = "99.0", .model = theirs.model, .role = "prefill", .deepep_mode = "normal"};
    end->transport->send(
        peer, {.kind = kWelcome, .payload = encode(WelcomeMessage{mismatch(ours, theirs)})});
  };
  const std::string refused =
      post_apart(*decode_, "127.0.0.1:" + std::to_string(*port), "/v1/completions", kCompletion);
  EXPECT_EQ(status_of(refused), 502) << refused;
  EXPECT_NE(refused.find("this server's version of plimsoll is 99.0"), std::string::npos)
      << refused;
}

// A decode server that speaks the protocol and asks for what no engine can compute.
TEST_F(HandshakeTest, APrefillServerChecksEveryField) {
  const auto end = BareEnd::create();
  const KvPeer peer = end->transport->connect("127.0.0.1", bootstrap_port(*prefill_));
  end->transport->send(peer, {.kind = kHello, .payload = encode(true_hello())});
  ASSERT_EQ(end->receive().kind, kWelcome);
  std::vector<PromptMessage> odd(9, {.prompt = {1, 2, 3}});
  odd[0].padding_tokens = -1'000'000;
  odd[1].padding_tokens = 1'000'000;
  odd[2].num_top_logprobs = 1 << 30;
  odd[3].num_top_logprobs = -7;
  odd[4].prompt = {};
  odd[5].prompt = {-5};
  odd[6].sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  odd[7].sampling.top_k = -3;
  odd[8].sampling.presence_penalty = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < odd.size(); ++i) {
    end->transport->send(
        peer, {.kind = kPrompt, .id = static_cast<int64_t>(i), .payload = encode(odd[i])});
    EXPECT_EQ(end->receive().kind, kFailed) << i;
  }
  EXPECT_EQ(
      status_of(post_apart(*decode_, bootstrap_address(*prefill_), "/v1/completions", kCompletion)),
      200);
}

// A prefill server that speaks the protocol and answers what was not asked for.
TEST_F(HandshakeTest, ADecodeServerChecksEveryField) {
  std::vector<FirstTokenMessage> odd(5);
  odd[1].has_token = true;  // without prompt_nll
  odd[2] = {.has_token = true, .token = {.token = 1 << 30}};
  odd[3] = {.has_token = true, .token = {.top = std::vector<TokenLogprob>(1000)}};
  odd[4].prompt_nll.resize(100'000);
  for (const FirstTokenMessage& first : odd) {
    const auto end = BareEnd::create();
    const Result<int> port = end->transport->listen("127.0.0.1", 0);
    ASSERT_TRUE(port.ok());
    end->answer = [&](KvPeer peer, const KvMessage& message) {
      if (message.kind == kHello) {
        end->transport->send(peer, {.kind = kWelcome, .payload = encode(WelcomeMessage{})});
      } else if (message.kind == kPrompt) {
        end->transport->send(peer,
                             {.kind = kFirstToken, .id = message.id, .payload = encode(first)});
      }
    };
    const json body = {{"prompt", "one two"}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 2}};
    const std::string answer =
        post_apart(*decode_, "127.0.0.1:" + std::to_string(*port), "/v1/completions", body);
    EXPECT_EQ(status_of(answer), 502) << answer;
  }
  EXPECT_EQ(
      status_of(post_apart(*decode_, bootstrap_address(*prefill_), "/v1/completions", kCompletion)),
      200);
}

TEST_F(HandshakeTest, ADecodeServerAsksNobodyAtAStrangersWord) {
  const std::string answer = post_apart(*decode_, "192.0.2.1:8998", "/v1/completions", kCompletion);
  EXPECT_EQ(status_of(answer), 403) << answer;
  DisaggregationOptions options{.key = std::string(32, 'k'), .prefill_servers = {"10.0.0.1:1"}};
  EXPECT_EQ(options.allowed_prefill_server("127.0.0.1:1"), "") << "with a key, that alone counts";
  EXPECT_EQ(options.allowed_prefill_server("10.0.0.1:1"), "10.0.0.1:1");
  EXPECT_EQ(options.allowed_prefill_server(*sign(options.key, "10.0.0.2:1", std::time(nullptr))),
            "10.0.0.2:1");
  options.key.clear();
  EXPECT_EQ(options.allowed_prefill_server("127.0.0.1:1"), "") << "with a list, that alone counts";
}

}  // namespace
}  // namespace plimsoll
