// One completion request on its way through the engine: collects the answers' tokens, and sends
// them to the client, all at once or as server-sent events.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "serve/http/http_server.h"
#include "serve/loop/engine_loop.h"
#include "serve/openai/answer_text.h"
#include "serve/openai/completion_request.h"

namespace plimsoll {

struct JobContext {
  EngineLoop* loop = nullptr;
  const Tokenizer* tokenizer = nullptr;
  std::string model_name;
  uint64_t default_seed = 0;   // of a request that names none
  std::string prefill_server;  // host:port of who computes the prompts; empty: this server
};

// As OpenAI's API has it, with Retry-After where that helps.
void send_error(HttpReply& reply, int status, const std::string& message);
void send_error(HttpReply& reply, const Error& error);

class CompletionJob : public std::enable_shared_from_this<CompletionJob> {
 public:
  // Submits the request; the job then keeps itself alive until it has been answered.
  static void start(const JobContext& context,
                    CompletionRequest request,
                    std::shared_ptr<HttpReply> reply);

  ~CompletionJob();

 private:
  using Json = nlohmann::ordered_json;

  struct Choice {
    int index = 0;
    AnswerText text;
    std::string whole;  // of an answer sent at once
    std::string whole_reasoning;
    Json logprobs;  // entries so far
    Json event;     // of a stream: the last one, whose parts mostly stay as they are
    const char* finish_reason = nullptr;
    int64_t num_tokens = 0;
    std::vector<float> prompt_nll;  // for echo with logprobs; none of the prompt's first token
    std::vector<TokenLogprob> prompt_top;
    int64_t text_offset = 0;  // in characters
  };

  CompletionJob(const JobContext& context,
                CompletionRequest request,
                std::shared_ptr<HttpReply> reply);

  void submit();
  void hear(Result<RequestUpdate> update);
  void fail(const Error& error);
  void add_token(Choice& choice, const SampledToken& token);
  void begin_answer(Choice& choice);
  void end_choice(Choice& choice, const char* reason);
  void send_piece(Choice& choice, const std::string& text, Json logprobs, bool is_reasoning);
  void finish();
  Json token_logprobs(Choice& choice, const SampledToken& token) const;
  Json head(bool chunk) const;
  Json& next_event(Choice& choice) const;
  Json usage() const;
  void send_event(const Json& event);

  JobContext context_;
  CompletionRequest request_;
  std::shared_ptr<HttpReply> reply_;
  std::string id_;
  int64_t created_ = 0;
  std::vector<Choice> choices_;
  int64_t first_id_ = 0;  // of the engine's requests; choice i is request first_id_ + i
  size_t num_open_ = 0;
  int64_t num_held_ = 0;  // of the log probabilities that all answers may hold
  bool failed_ = false;
  bool streaming_ = false;
};

}  // namespace plimsoll
