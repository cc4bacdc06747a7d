#include "serve/loop/engine_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

namespace plimsoll {
namespace {

const std::string kTiny = std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/tiny-v4";

class EngineLoopTest : public testing::Test {
 protected:
  void make_loop() {
    auto engine = Engine::create({.model_dir = kTiny, .ep_size = 2, .pin_ranks = false});
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    loop_ = std::make_unique<EngineLoop>(std::move(*engine), 1000, metrics_, [](Engine&) {});
  }
  Status submit(int64_t max_tokens, RequestListener listener, int64_t* id = nullptr) {
    std::vector<Request> requests(1);
    requests[0].id = loop_->reserve_ids(1);
    requests[0].prompt = {1, 2, 3};
    requests[0].max_tokens = max_tokens;
    requests[0].ignore_eos = true;
    if (id != nullptr) *id = requests[0].id;
    return loop_->submit(std::move(requests), std::move(listener));
  }
  // What `action` says of the engine between two steps.
  template <typename Action>
  auto ask(Action action) {
    std::promise<decltype(action(std::declval<Engine&>()))> said;
    loop_->post([&](Engine& engine) { said.set_value(action(engine)); });
    return said.get_future().get();
  }

  Metrics metrics_{MetricsOptions{.model_name = "tiny"}};
  std::unique_ptr<EngineLoop> loop_;
};

bool has_ended(const Result<RequestUpdate>& update) {
  return !update.ok() || update->finish != FinishReason::kNone;
}

TEST_F(EngineLoopTest, DrainReturnsAfterTheLastListenerHasHeard) {
  make_loop();
  std::atomic<bool> heard = false;
  ASSERT_TRUE(submit(4, [&](const Result<RequestUpdate>& update) {
                if (!has_ended(update)) return;
                std::this_thread::sleep_for(std::chrono::milliseconds(100));
                heard = true;
              }).ok());
  loop_->drain();
  EXPECT_TRUE(heard);
  EXPECT_FALSE(submit(4, [](const Result<RequestUpdate>&) {}).ok());
}

// A request is refused, or its listener hears of its end before drain returns; whenever it came.
TEST_F(EngineLoopTest, DrainLosesNoRequestThatCameJustBefore) {
  make_loop();
  std::atomic<int> num_taken = 0, num_heard = 0;
  std::atomic<bool> any = false;
  std::vector<std::jthread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      while (submit(1, [&](const Result<RequestUpdate>& update) {
               num_heard += has_ended(update);
             }).ok()) {
        ++num_taken;
        any = true;
        any.notify_one();
        std::this_thread::yield();
      }
    });
  }
  any.wait(false);
  loop_->drain();
  const int num_heard_then = num_heard;
  clients.clear();
  EXPECT_EQ(num_heard_then, num_taken);
}

TEST_F(EngineLoopTest, AnIdleEngineHoldsNoStates) {
  make_loop();
  std::promise<void> ended;
  ASSERT_TRUE(submit(4, [&](const Result<RequestUpdate>& update) {
                if (has_ended(update)) ended.set_value();
              }).ok());
  ended.get_future().wait();
  EXPECT_EQ(ask([](Engine& engine) { return engine.num_held_sequences(); }), 0u);

  std::promise<void> started;
  std::atomic<bool> has_started = false;
  int64_t id = 0;
  ASSERT_TRUE(submit(
                  100,
                  [&](const Result<RequestUpdate>&) {
                    if (!has_started.exchange(true)) started.set_value();
                  },
                  &id)
                  .ok());
  started.get_future().wait();
  loop_->cancel(id, 1);
  ask([](Engine&) { return 0; });  // the cancellation is done; the loop comes round after it
  EXPECT_EQ(ask([](Engine& engine) { return engine.num_held_sequences(); }), 0u);
}

}  // namespace
}  // namespace plimsoll
