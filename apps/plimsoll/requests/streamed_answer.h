// One streamed completion as its client sees it: when its pieces came, and how many tokens it was.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "plimsoll/result.h"
#include "serve/http/event_stream.h"

namespace plimsoll {

// Times are seconds since the request was sent.
struct RequestRecord {
  double sent_at_s = 0;  // since the load began
  double first_token_s = 0;
  double end_s = 0;
  std::vector<double> inter_token_s;  // between pieces of text that follow each other
  int64_t num_prompt_tokens = 0;
  int64_t num_tokens = 0;  // generated
  bool has_usage = false;  // else num_tokens counts pieces, and the prompt's are not known
  std::string error;       // why there is no answer, or not a whole one

  // From the first token to the end, over the tokens after the first; 0 if there are none.
  double time_per_output_token_s() const;
};

// Hears one answer of an OpenAI server, and fills the record. Bytes are heard as they come; what
// they say is understood by status and content type.
class StreamedAnswer {
 public:
  using Clock = std::chrono::steady_clock;
  StreamedAnswer(Clock::time_point sent, RequestRecord& record);

  void hear_head(int status, std::string_view content_type);
  void hear_bytes(std::string_view bytes);
  void hear_end(const Status& status);

 private:
  void hear_event(std::string_view data);
  double now_s() const;
  void fail(std::string why);

  Clock::time_point sent_;
  RequestRecord& record_;
  EventStream events_;
  int status_ = 0;
  std::string content_type_;
  std::string body_;  // of an answer that is no stream
  double last_piece_s_ = 0;
  int64_t num_pieces_ = 0;
  bool finished_ = false;  // a finish reason or [DONE] has come
};

// What a server's error answer says: OpenAI's {"error": {"message"}}, FastAPI's {"detail"}, or the
// beginning of whatever it is.
std::string error_message_of(std::string_view body);

}  // namespace plimsoll
