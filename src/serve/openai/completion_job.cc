#include "serve/openai/completion_job.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "record/formats/json_text.h"
#include "record/formats/limits.h"
#include "serve/http/api_error.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

// Log probabilities that all answers sent whole may come to.
std::atomic<int64_t> held_logprobs = 0;

// A token's own text, U+FFFD where it is no whole character.
std::string token_text(const Tokenizer& tokenizer, int32_t token) {
  return tokenizer.decode({&token, 1});
}

// Characters that begin in the token; one that is split over tokens counts with its first byte.
int64_t num_characters(const Tokenizer& tokenizer, int32_t token) {
  return std::ranges::count_if(tokenizer.token_bytes(token),
                               [](char byte) { return (byte & 0xC0) != 0x80; });
}

Json bytes_of(const Tokenizer& tokenizer, int32_t token) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.token_bytes(token)) bytes.push_back(static_cast<uint8_t>(byte));
  return bytes;
}

}  // namespace

void send_error(HttpReply& reply, int status, const std::string& message) {
  std::map<std::string, std::string> headers;
  if (status == 429) headers["Retry-After"] = "1";
  if (status == 401) headers["WWW-Authenticate"] = "Bearer";
  reply.send(status, "application/json", api_error_body(status, message), headers);
}

void send_error(HttpReply& reply, const Error& error) {
  const int status = is_queue_full(error) ? 429 : error.code == ErrorCode::kUnavailable ? 503 : 400;
  send_error(reply, status, error.message);
}

void CompletionJob::start(const JobContext& context,
                          CompletionRequest request,
                          std::shared_ptr<HttpReply> reply) {
  const std::shared_ptr<CompletionJob> job(
      new CompletionJob(context, std::move(request), std::move(reply)));
  job->submit();
}

CompletionJob::CompletionJob(const JobContext& context,
                             CompletionRequest request,
                             std::shared_ptr<HttpReply> reply)
    : context_(context), request_(std::move(request)), reply_(std::move(reply)) {
  created_ = std::chrono::duration_cast<std::chrono::seconds>(
                 std::chrono::system_clock::now().time_since_epoch())
                 .count();
}

CompletionJob::~CompletionJob() {
  held_logprobs -= num_held_;
}

void CompletionJob::submit() {
  const auto num_choices = static_cast<int64_t>(request_.prompts.size()) * request_.n;
  // Before anything is made for each answer.
  if (const Status room = context_.loop->check_room(num_choices); !room.ok()) {
    return send_error(*reply_, room.error());
  }
  if (!request_.stream) {
    num_held_ = request_.num_logprobs(context_.loop->setup().limits.max_sequence_tokens);
    if (held_logprobs.fetch_add(num_held_) + num_held_ > limits::kHeldLogprobs) {
      return send_error(*reply_, unavailable("other answers with log probabilities are being "
                                             "gathered; ask again, or with \"stream\": true"));
    }
  }
  first_id_ = context_.loop->reserve_ids(num_choices);
  id_ = (request_.chat ? "chatcmpl-" : "cmpl-") + std::to_string(first_id_);
  std::vector<Request> requests;
  for (int64_t i = 0; i < num_choices; ++i) {
    choices_.push_back({.index = static_cast<int>(i),
                        .text = AnswerText(*context_.tokenizer, request_.stop, request_.reasons),
                        .logprobs = Json::array()});
    Request request{.id = first_id_ + i,
                    .prompt = request_.prompts[i / request_.n],
                    .max_tokens = request_.max_tokens,
                    .ignore_eos = request_.ignore_eos,
                    .sampling = request_.sampling,
                    .num_top_logprobs = request_.logprobs.value_or(-1),
                    .score_prompt = request_.echo && request_.logprobs.has_value()};
    // The answers to one prompt differ by their seeds; a seed given repeats all of them.
    const uint64_t seed = request_.has_seed
                              ? request_.sampling.seed
                              : context_.default_seed + static_cast<uint64_t>(first_id_);
    request.sampling.seed = seed + static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u;
    requests.push_back(std::move(request));
  }
  num_open_ = choices_.size();
  const auto self = shared_from_this();
  const Status status = context_.loop->submit(
      std::move(requests), [self](Result<RequestUpdate> update) { self->hear(std::move(update)); },
      context_.prefill_server);
  if (!status.ok()) return send_error(*reply_, status.error());
  reply_->on_client_left(
      [loop = context_.loop, first = first_id_, num_choices] { loop->cancel(first, num_choices); });
}

void CompletionJob::hear(Result<RequestUpdate> update) {
  if (failed_) return;
  if (!update.ok()) {
    failed_ = true;
    if (!streaming_) return fail(update.error());
    reply_->write("data: " + api_error_body(500, update.error().message) + "\n\n");
    return reply_->end();
  }
  Choice& choice = choices_[update->request_id - first_id_];
  if (choice.finish_reason != nullptr) return;
  const std::vector<float>& nll = update->result.nll;
  choice.prompt_nll.insert(choice.prompt_nll.end(), nll.begin(), nll.end());
  const std::vector<TokenLogprob>& top = update->result.target_top;
  choice.prompt_top.insert(choice.prompt_top.end(), top.begin(), top.end());
  const bool ended = update->finish != FinishReason::kNone;
  if (!update->has_token && !ended) return;  // more of the prompt is to come
  if (choice.num_tokens == 0) begin_answer(choice);
  // The end token ends the answer and is no part of its text.
  if (update->has_token && update->finish != FinishReason::kStop) {
    add_token(choice, update->result.next);
  } else if (update->has_token) {
    ++choice.num_tokens;
  }
  if (choice.text.stopped()) {
    context_.loop->cancel(update->request_id, 1);
    end_choice(choice, "stop");
  } else if (ended) {
    end_choice(choice, update->finish == FinishReason::kLength ? "length" : "stop");
  }
}

// Nothing has been sent yet, so the client hears of it by status. 502: the prefill server failed,
// and a router may try another.
void CompletionJob::fail(const Error& error) {
  const auto num_choices = static_cast<int64_t>(choices_.size());
  context_.loop->cancel(first_id_, num_choices);
  const int status = is_queue_full(error) ? 429 : error.code == ErrorCode::kIo ? 502 : 500;
  send_error(*reply_, status, error.message);
}

// What comes before the first token: the prompt itself, if it is to be echoed.
void CompletionJob::begin_answer(Choice& choice) {
  if (!request_.echo) return;
  const std::vector<int32_t>& prompt = request_.prompts[choice.index / request_.n];
  Json logprobs;
  std::vector<int32_t> shown;
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] == context_.loop->config().bos_token_id) continue;
    shown.push_back(prompt[i]);
    if (!request_.logprobs) continue;
    SampledToken token{.token = prompt[i]};
    if (i > 0) {
      const auto top = choice.prompt_top.begin() + static_cast<int64_t>(i - 1) * *request_.logprobs;
      token.logprob = -choice.prompt_nll[i - 1];
      token.top = {top, top + *request_.logprobs};
    }
    Json entry = token_logprobs(choice, token);
    if (i == 0) entry["logprob"] = entry["top_logprobs"] = nullptr;  // nothing comes before it
    logprobs.push_back(std::move(entry));
  }
  send_piece(choice, context_.tokenizer->decode(shown), std::move(logprobs),
             /*is_reasoning=*/false);
}

void CompletionJob::add_token(Choice& choice, const SampledToken& token) {
  ++choice.num_tokens;
  Json logprobs;
  if (request_.logprobs) logprobs.push_back(token_logprobs(choice, token));
  const bool is_reasoning = choice.text.in_reasoning();
  send_piece(choice, choice.text.push(token.token), std::move(logprobs), is_reasoning);
}

// Of the next token of the choice.
CompletionJob::Json CompletionJob::token_logprobs(Choice& choice, const SampledToken& token) const {
  const Tokenizer& tokenizer = *context_.tokenizer;
  const auto one = [&](int32_t id, float logprob) {
    return Json{{"token", token_text(tokenizer, id)},
                {"logprob", logprob},
                {"bytes", bytes_of(tokenizer, id)}};
  };
  Json entry = one(token.token, token.logprob);
  entry["top_logprobs"] = Json::array();
  for (const TokenLogprob& top : token.top) {
    entry["top_logprobs"].push_back(one(top.token, top.logprob));
  }
  entry["offset"] = choice.text_offset;
  choice.text_offset += num_characters(tokenizer, token.token);
  return entry;
}

namespace {

// The entries of a choice in the shape of the endpoint: chat's list of objects, or the lists by
// column of the older completions.
Json shape_logprobs(bool chat, const Json& entries) {
  if (chat) {
    Json content = entries.is_null() ? Json::array() : entries;
    for (Json& entry : content) entry.erase("offset");
    return {{"content", content}};
  }
  Json columns = {{"tokens", Json::array()},
                  {"token_logprobs", Json::array()},
                  {"top_logprobs", Json::array()},
                  {"text_offset", Json::array()}};
  for (const Json& entry : entries) {
    columns["tokens"].push_back(entry["token"]);
    columns["token_logprobs"].push_back(entry["logprob"]);
    Json top = entry["top_logprobs"].is_null() ? Json() : Json::object();
    for (const Json& candidate : entry["top_logprobs"]) {
      top[candidate["token"].get<std::string>()] = candidate["logprob"];
    }
    columns["top_logprobs"].push_back(std::move(top));
    columns["text_offset"].push_back(entry["offset"]);
  }
  return columns;
}

}  // namespace

void CompletionJob::send_piece(Choice& choice,
                               const std::string& text,
                               Json logprobs,
                               bool is_reasoning) {
  if (!request_.stream) {
    (is_reasoning ? choice.whole_reasoning : choice.whole) += text;
    for (Json& entry : logprobs) choice.logprobs.push_back(std::move(entry));
    return;
  }
  if (text.empty() && logprobs.is_null()) return;
  Json& event = next_event(choice);
  Json& piece = event["choices"][0];
  if (request_.chat) {
    piece["delta"][is_reasoning ? "reasoning_content" : "content"] = text;
  } else {
    piece["text"] = text;
  }
  if (request_.logprobs) piece["logprobs"] = shape_logprobs(request_.chat, logprobs);
  send_event(event);
}

// The event of a choice with nothing in it yet. A chat's first delta says whose words come, and
// that there may be none.
CompletionJob::Json& CompletionJob::next_event(Choice& choice) const {
  const bool is_first = choice.event.is_null();
  if (is_first) {
    choice.event = head(/*chunk=*/true);
    choice.event["choices"] = Json::array({{{"index", choice.index},
                                            {request_.chat ? "delta" : "text", ""},
                                            {"logprobs", nullptr},
                                            {"finish_reason", nullptr}}});
  }
  if (request_.chat) {
    choice.event["choices"][0]["delta"] =
        is_first ? Json{{"role", "assistant"}, {"content", ""}} : Json::object();
  }
  return choice.event;
}

void CompletionJob::end_choice(Choice& choice, const char* reason) {
  const bool is_reasoning = choice.text.in_reasoning();
  send_piece(choice, choice.text.finish(), {}, is_reasoning);
  choice.finish_reason = reason;
  if (request_.stream) {
    Json& event = next_event(choice);
    Json& piece = event["choices"][0];
    if (!request_.chat) piece["text"] = "";
    piece["logprobs"] = nullptr;
    piece["finish_reason"] = reason;
    send_event(event);
  }
  if (--num_open_ == 0) finish();
}

void CompletionJob::finish() {
  if (request_.stream) {
    if (request_.include_usage) {
      Json event = head(/*chunk=*/true);
      event["choices"] = Json::array();
      event["usage"] = usage();
      send_event(event);
    }
    reply_->write("data: [DONE]\n\n");
    return reply_->end();
  }
  Json body = head(/*chunk=*/false);
  body["choices"] = Json::array();
  for (Choice& choice : choices_) {
    Json answer = {{"index", choice.index}};
    if (request_.chat) {
      answer["message"] = {{"role", "assistant"}, {"content", choice.whole}};
      if (request_.reasons) answer["message"]["reasoning_content"] = choice.whole_reasoning;
    } else {
      answer["text"] = choice.whole;
    }
    answer["logprobs"] =
        request_.logprobs ? shape_logprobs(request_.chat, choice.logprobs) : Json();
    answer["finish_reason"] = choice.finish_reason;
    body["choices"].push_back(std::move(answer));
  }
  body["usage"] = usage();
  reply_->send(200, "application/json", json_text(body));
}

CompletionJob::Json CompletionJob::head(bool chunk) const {
  const char* object = !request_.chat ? "text_completion"
                       : chunk        ? "chat.completion.chunk"
                                      : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", context_.model_name}};
}

CompletionJob::Json CompletionJob::usage() const {
  int64_t num_prompt = 0;
  for (const std::vector<int32_t>& prompt : request_.prompts) {
    num_prompt += static_cast<int64_t>(prompt.size());
  }
  int64_t num_generated = 0;
  for (const Choice& choice : choices_) num_generated += choice.num_tokens;
  return {{"prompt_tokens", num_prompt},
          {"completion_tokens", num_generated},
          {"total_tokens", num_prompt + num_generated}};
}

// The head goes out with the first event, so that a request refused before it gets a status of its
// own.
void CompletionJob::send_event(const Json& event) {
  if (!streaming_) reply_->begin_stream(200, "text/event-stream; charset=utf-8");
  streaming_ = true;
  reply_->write("data: " + json_text(event) + "\n\n");
}

}  // namespace plimsoll
