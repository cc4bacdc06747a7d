#include "requests/serving_load.h"

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <cmath>
#include <memory>

#include "balance/random.h"

namespace plimsoll {
namespace {

using Clock = StreamedAnswer::Clock;

class LoadRunner {
 public:
  LoadRunner(const ServingLoad& load, const std::function<void(int64_t)>& on_progress)
      : load_(load),
        on_progress_(on_progress),
        arrivals_(poisson_arrivals(load.bodies.size(), load.requests_per_s, load.seed)),
        timer_(io_) {}

  Result<ServingRun> run() {
    const auto client = HttpClient::create(io_, load_.server);
    if (!client) return client.error();
    client_ = &*client;
    run_.requests.resize(load_.bodies.size());
    begin_ = Clock::now();
    start_due();
    io_.run();
    run_.duration_s = since(begin_);
    return std::move(run_);
  }

 private:
  static double since(Clock::time_point then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
  }

  // Starts what has arrived and may run; comes back at the next arrival, or when a request ends.
  void start_due() {
    while (next_ < arrivals_.size() && has_room()) {
      const auto due = begin_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(arrivals_[next_]));
      if (due > Clock::now()) {
        timer_.expires_at(due);
        return timer_.async_wait([this](boost::system::error_code error) {
          if (!error) start_due();
        });
      }
      start(next_++);
    }
  }

  bool has_room() const {
    return load_.max_concurrency == 0 || num_running_ < load_.max_concurrency;
  }

  void start(size_t i) {
    RequestRecord& record = run_.requests[i];
    record.sent_at_s = since(begin_);
    run_.peak_concurrency = std::max(run_.peak_concurrency, ++num_running_);
    const auto answer = std::make_shared<StreamedAnswer>(Clock::now(), record);
    client_->start({.method = "POST",
                    .path = load_.path,
                    .body = load_.bodies[i],
                    .bearer_token = load_.api_key,
                    .timeout = load_.timeout},
                   {.on_head = [answer](int status,
                                        std::string_view type) { answer->hear_head(status, type); },
                    .on_bytes = [answer](std::string_view bytes) { answer->hear_bytes(bytes); },
                    .on_end =
                        [this, answer](const Status& status) {
                          answer->hear_end(status);
                          --num_running_;
                          on_progress_(++num_ended_);
                          start_due();
                        }});
  }

  const ServingLoad& load_;
  const std::function<void(int64_t)>& on_progress_;
  const std::vector<double> arrivals_;
  boost::asio::io_context io_{1};
  boost::asio::steady_timer timer_;
  const HttpClient* client_ = nullptr;
  ServingRun run_;
  Clock::time_point begin_;
  size_t next_ = 0;
  int num_running_ = 0;
  int64_t num_ended_ = 0;
};

}  // namespace

std::vector<double> poisson_arrivals(size_t count, double requests_per_s, uint64_t seed) {
  std::vector<double> arrivals(count);
  SplitMix64 random{seed};
  for (size_t i = 1; i < count && std::isfinite(requests_per_s); ++i) {
    // Uniform in (0, 1], from the upper 53 bits.
    const double u = static_cast<double>((random.next() >> 11) + 1) * 0x1p-53;
    arrivals[i] = arrivals[i - 1] - std::log(u) / requests_per_s;
  }
  return arrivals;
}

Result<ServingRun> run_load(const ServingLoad& load,
                            const std::function<void(int64_t)>& on_progress) {
  return LoadRunner(load, on_progress).run();
}

}  // namespace plimsoll
