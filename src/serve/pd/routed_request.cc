#include "serve/pd/routed_request.h"

#include <boost/asio/post.hpp>
#include <ctime>

#include "comm/deployment_key.h"
#include "record/formats/limits.h"
#include "serve/http/api_error.h"
#include "serve/loop/hand_over.h"
#include "serve/openai/completion_job.h"

namespace plimsoll {
namespace {

// Silence is no reason to break an answer off: health checks find servers that hang.
constexpr std::chrono::hours kNoLimit{24};

// What a decode server answers where trying elsewhere may help.
constexpr int kPrefillFailed = 502;
constexpr int kUnavailable = 503;
constexpr int kQueueFull = 429;

class RoutedRequest : public std::enable_shared_from_this<RoutedRequest> {
 public:
  RoutedRequest(ServerPool& pool,
                const std::string& key,
                boost::asio::io_context& io,
                HttpRequest request,
                bool needs_prefill,
                std::shared_ptr<HttpReply> reply,
                RouteEvents events)
      : pool_(pool),
        key_(key),
        io_(io),
        request_(std::move(request)),
        needs_prefill_(needs_prefill),
        reply_(std::move(reply)),
        events_(std::move(events)) {}

  void try_next();
  void leave();

 private:
  void hear_head(int status, std::string_view type);
  void hear_bytes(std::string_view bytes);
  void hear_too_much();
  void hear_end(const Status& ended);
  void hear_break(const std::string& why);
  void try_without(PooledServer& server);
  void give_up(PdRole missing);
  void answer();
  void end(RouteEnd how);
  void release(PooledServer*& server);

  ServerPool& pool_;
  const std::string& key_;
  boost::asio::io_context& io_;
  HttpRequest request_;  // its body until bytes of the answer have gone
  const bool needs_prefill_;
  const std::shared_ptr<HttpReply> reply_;
  const RouteEvents events_;

  // Of this attempt.
  PooledServer* prefill_ = nullptr;
  PooledServer* decode_ = nullptr;
  std::function<void()> break_off_;
  int status_ = 0;  // 0: no answer yet
  std::string type_;
  std::string body_;
  bool streaming_ = false;

  std::vector<const PooledServer*> failed_;  // in earlier attempts
  bool left_ = false;
  bool too_large_ = false;  // the answer of this attempt
};

void RoutedRequest::try_next() {
  if (left_) return end(RouteEnd::kClientLeft);
  prefill_ = needs_prefill_ ? pool_.pick(PdRole::kPrefill, failed_) : nullptr;
  if (needs_prefill_ && !prefill_) return give_up(PdRole::kPrefill);
  decode_ = pool_.pick(PdRole::kDecode, failed_);
  if (!decode_) return give_up(PdRole::kDecode);
  HttpCall call{
      .method = request_.method, .path = request_.path, .body = request_.body, .timeout = kNoLimit};
  if (const auto key = request_.header("authorization"); !key.empty()) {
    call.headers["Authorization"] = key;
  }
  if (prefill_) {
    const Result<std::string> word = key_.empty()
                                         ? Result<std::string>(prefill_->bootstrap)
                                         : sign(key_, prefill_->bootstrap, std::time(nullptr));
    call.headers[kPrefillHeader] = word.ok() ? *word : "";
    ++prefill_->num_requests;
  }
  ++decode_->num_requests;
  status_ = 0;
  too_large_ = false;
  body_.clear();
  const auto self = shared_from_this();
  break_off_ = decode_->client.start(
      std::move(call),
      {.on_head = [self](int status, std::string_view type) { self->hear_head(status, type); },
       .on_bytes = [self](std::string_view bytes) { self->hear_bytes(bytes); },
       .on_end = [self](const Status& ended) { self->hear_end(ended); }});
  decode_->calls[this] = break_off_;
}

void RoutedRequest::hear_head(int status, std::string_view type) {
  status_ = status;
  type_ = type;
  if (status != 200 || !type.starts_with("text/event-stream") || left_) return;
  release(prefill_);  // the first token is there
  streaming_ = true;
  request_ = {};
  reply_->begin_stream(status_, type_);
}

void RoutedRequest::hear_bytes(std::string_view bytes) {
  if (too_large_) return;
  if (!streaming_) {
    if (body_.size() + bytes.size() > limits::kRoutedAnswerBytes) return hear_too_much();
    body_ += bytes;
  } else if (!left_) {
    reply_->write(std::string(bytes));
  }
}

// Not from within the call's own reading.
void RoutedRequest::hear_too_much() {
  if (too_large_) return;
  too_large_ = true;
  std::string().swap(body_);
  boost::asio::post(io_, [self = shared_from_this(), break_off = break_off_] {
    if (break_off) break_off();
  });
}

void RoutedRequest::hear_end(const Status& ended) {
  PooledServer* prefill = prefill_;
  PooledServer* decode = decode_;
  release(prefill_);
  release(decode_);
  if (left_) return end(RouteEnd::kClientLeft);
  if (!ended.ok()) {
    pool_.doubt(*decode);
    // Of a server that was given up this end is but the consequence.
    const std::string why = too_large_      ? "its answer is larger than a router holds"
                            : decode->ready ? ended.error().message
                                            : decode->why_not;
    hear_break(decode->text() + ": " + why);
    return streaming_ ? end(RouteEnd::kFailed) : try_without(*decode);
  }
  if (streaming_) {
    reply_->end();
    return end(RouteEnd::kAnswered);
  }
  if (status_ == kPrefillFailed && prefill) {
    pool_.doubt(*prefill);
    return try_without(*prefill);
  }
  if (status_ == kUnavailable) pool_.doubt(*decode);
  if (status_ == kUnavailable || status_ == kQueueFull) return try_without(*decode);
  answer();
  end(RouteEnd::kAnswered);
}

// Once bytes have gone to the client nobody else can go on; before, `why` is the answer unless
// another attempt has a better one.
void RoutedRequest::hear_break(const std::string& why) {
  const std::string text = api_error_body(kPrefillFailed, why);
  if (streaming_) {
    reply_->write("data: " + text + "\n\n");
    return reply_->end();
  }
  status_ = kPrefillFailed;
  type_ = "application/json";
  body_ = text;
}

void RoutedRequest::try_without(PooledServer& server) {
  failed_.push_back(&server);
  events_.on_retry();
  try_next();
}

void RoutedRequest::give_up(PdRole missing) {
  if (status_ != 0) {
    answer();  // of the last attempt
  } else {
    send_error(
        *reply_, kUnavailable,
        std::string("no ") + name_of(missing) + " server is ready: " + pool_.reasons(missing));
  }
  end(RouteEnd::kFailed);
}

void RoutedRequest::answer() {
  std::map<std::string, std::string> headers;
  if (status_ == kQueueFull) headers["Retry-After"] = "1";
  reply_->send(status_, type_, std::move(body_), headers);
}

void RoutedRequest::leave() {
  left_ = true;
  if (break_off_) break_off_();
}

void RoutedRequest::end(RouteEnd how) {
  break_off_ = nullptr;
  events_.on_end(how);
}

void RoutedRequest::release(PooledServer*& server) {
  if (!server) return;
  --server->num_requests;
  server->calls.erase(this);
  server = nullptr;
}

}  // namespace

void route_request(ServerPool& pool,
                   const std::string& key,
                   HttpRequest request,
                   bool needs_prefill,
                   boost::asio::io_context& io,
                   std::shared_ptr<HttpReply> reply,
                   RouteEvents events) {
  const auto routed = std::make_shared<RoutedRequest>(pool, key, io, std::move(request),
                                                      needs_prefill, reply, std::move(events));
  reply->on_client_left([&io, weak = std::weak_ptr(routed)] {
    boost::asio::post(io, [weak] {
      if (const auto alive = weak.lock()) alive->leave();
    });
  });
  routed->try_next();
}

}  // namespace plimsoll
