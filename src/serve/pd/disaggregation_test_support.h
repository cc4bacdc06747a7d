// Prefill and decode servers in the test's own process.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "serve/http/http_test_client.h"
#include "serve/server.h"

namespace plimsoll {

inline const std::string kModel = std::string(PLIMSOLL_SOURCE_DIR) + "/demo/model";

// Null, without a word, where the build has no UCX.
inline std::unique_ptr<Server> make_server(const std::string& role,
                                           EngineOptions engine_options,
                                           const std::string& model = kModel,
                                           const std::string& transfer_backend = "ucx") {
  auto server = std::make_unique<Server>(ServerOptions{
      .port = 0,
      .served_model_name = "demo",
      .recorder_dir = testing::TempDir() + "/disaggregation_test/" + role,
      .disaggregation = {.mode = role, .transfer_backend = transfer_backend, .bootstrap_port = 0},
      .model_dir = model});
  const Status status = server->start();
  if (!status.ok()) {
    EXPECT_EQ(status.error().code, ErrorCode::kUnsupported) << status.error().message;
    return nullptr;
  }
  engine_options.model_dir = model;
  engine_options.disaggregation_mode = role;
  engine_options.pin_ranks = false;
  auto engine = Engine::create(engine_options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  auto tokenizer = Tokenizer::load(model + "/tokenizer.json");
  server->serve(std::move(*engine), std::move(*tokenizer));
  return server;
}

inline nlohmann::json get_json(const Server& server, const std::string& path) {
  return nlohmann::json::parse(body_of(ask(server.port(), "GET", path)));
}

inline int bootstrap_port(const Server& prefill) {
  return get_json(prefill, "/health")["bootstrap_port"];
}
inline std::string bootstrap_address(const Server& prefill) {
  return "127.0.0.1:" + std::to_string(bootstrap_port(prefill));
}

// Asks a decode server as a router does.
inline std::string post_apart(const Server& decode,
                              const std::string& prefill,
                              const std::string& path,
                              const nlohmann::json& body) {
  return ask(decode.port(), "POST", path, body.dump(), "X-Plimsoll-Prefill: " + prefill + "\r\n");
}

// The answer without what differs between any two: its id and its time.
inline nlohmann::json comparable(const std::string& raw) {
  EXPECT_EQ(status_of(raw), 200) << raw;
  nlohmann::json answer = nlohmann::json::parse(body_of(raw), nullptr, false);
  answer.erase("id");
  answer.erase("created");
  return answer;
}

}  // namespace plimsoll
