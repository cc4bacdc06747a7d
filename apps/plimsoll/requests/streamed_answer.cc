#include "requests/streamed_answer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

using Json = nlohmann::json;
constexpr size_t kMaxErrorBytes = 4096;  // of an answer that is no stream

bool has_text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() &&
         !found->get_ref<const std::string&>().empty();
}

// Whether a choice of an event carries text, as completions, chat, or chat's reasoning.
bool has_piece(const Json& choice) {
  if (!choice.is_object()) return false;
  if (has_text(choice, "text")) return true;
  const auto delta = choice.find("delta");
  if (delta == choice.end() || !delta->is_object()) return false;
  return has_text(*delta, "content") || has_text(*delta, "reasoning_content") ||
         has_text(*delta, "reasoning");
}

int64_t count_of(const Json& usage, const char* key) {
  const auto found = usage.find(key);
  return found != usage.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

std::string message_in(const Json& error) {
  if (error.is_string()) return error.get<std::string>();
  if (error.is_object() && has_text(error, "message")) return error["message"].get<std::string>();
  return json_text(error);
}

}  // namespace

double RequestRecord::time_per_output_token_s() const {
  return num_tokens > 1 ? (end_s - first_token_s) / static_cast<double>(num_tokens - 1) : 0;
}

std::string error_message_of(std::string_view body) {
  const Json json = Json::parse(body, nullptr, false);
  if (json.is_object()) {
    for (const char* key : {"error", "detail", "message"}) {
      if (json.contains(key)) return message_in(json[key]);
    }
  }
  const std::string_view line = body.substr(0, std::min<size_t>(body.find('\n'), 120));
  return line.empty() ? "without a word" : std::string(line);
}

StreamedAnswer::StreamedAnswer(Clock::time_point sent, RequestRecord& record)
    : sent_(sent), record_(record), events_([this](std::string_view data) { hear_event(data); }) {}

double StreamedAnswer::now_s() const {
  return std::chrono::duration<double>(Clock::now() - sent_).count();
}

// What went wrong first is the reason.
void StreamedAnswer::fail(std::string why) {
  if (record_.error.empty()) record_.error = std::move(why);
}

void StreamedAnswer::hear_head(int status, std::string_view content_type) {
  status_ = status;
  content_type_ = content_type;
}

void StreamedAnswer::hear_bytes(std::string_view bytes) {
  if (status_ == 200 && content_type_.starts_with("text/event-stream")) {
    if (const Status cut = events_.push(bytes); !cut) fail(cut.error().message);
  } else {
    body_ += bytes.substr(0, kMaxErrorBytes - std::min(kMaxErrorBytes, body_.size()));
  }
}

void StreamedAnswer::hear_event(std::string_view data) {
  if (data == "[DONE]") {
    finished_ = true;
    return;
  }
  const Json event = Json::parse(data, nullptr, false);
  if (!event.is_object()) return fail("an event of the stream is no JSON object");
  if (event.contains("error")) return fail("in the stream: " + message_in(event["error"]));
  const auto usage = event.find("usage");
  if (usage != event.end() && usage->is_object()) {
    record_.has_usage = true;
    record_.num_tokens = count_of(*usage, "completion_tokens");
    record_.num_prompt_tokens = count_of(*usage, "prompt_tokens");
  }
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array()) return;
  for (const Json& choice : *choices) {
    if (choice.is_object() && has_text(choice, "finish_reason")) finished_ = true;
    if (!has_piece(choice)) continue;
    const double now = now_s();
    if (num_pieces_++ == 0) {
      record_.first_token_s = now;
    } else {
      record_.inter_token_s.push_back(now - last_piece_s_);
    }
    last_piece_s_ = now;
  }
}

void StreamedAnswer::hear_end(const Status& status) {
  record_.end_s = now_s();
  if (!status) {
    // A server that hangs up right behind the last event has answered.
    if (!finished_) fail(status.error().message);
  } else if (status_ != 200) {
    fail(fmt::format("HTTP {}: {}", status_, error_message_of(body_)));
  } else if (!content_type_.starts_with("text/event-stream")) {
    fail(fmt::format("the server answered '{}' where a stream (text/event-stream) was asked for",
                     content_type_));
  } else if (!finished_) {
    fail("the stream ended without a finish reason or [DONE]");
  }
  if (num_pieces_ == 0) record_.first_token_s = record_.end_s;
  if (!record_.has_usage) record_.num_tokens = num_pieces_;
}

}  // namespace plimsoll
