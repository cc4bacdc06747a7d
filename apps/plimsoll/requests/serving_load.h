// Load on an OpenAI server: requests that arrive by chance or all at once, and what became of each.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "requests/streamed_answer.h"
#include "serve/http/http_client.h"

namespace plimsoll {

struct ServingLoad {
  HttpUrl server;
  std::string path = "/v1/completions";
  std::string api_key;
  std::vector<std::string> bodies;  // JSON of the requests, in order of arrival
  // Requests arrive as a Poisson process of this rate; infinite: all at the beginning.
  double requests_per_s = std::numeric_limits<double>::infinity();
  int max_concurrency = 0;  // requests on their way at once, later ones wait; 0: no limit
  uint64_t seed = 0;        // of the arrivals
  std::chrono::milliseconds timeout{300'000};  // of one request, without a byte from the server
};

struct ServingRun {
  std::vector<RequestRecord> requests;  // in order of arrival
  double duration_s = 0;                // from the first arrival to the last end
  int peak_concurrency = 0;
};

// Seconds from the beginning to each of `count` arrivals; the first one is at 0.
std::vector<double> poisson_arrivals(size_t count, double requests_per_s, uint64_t seed);

// Runs the load to its end on this thread. `on_progress` hears how many requests have ended.
// Fails only where the server's host is unknown; else a request's error is in its record.
Result<ServingRun> run_load(const ServingLoad& load,
                            const std::function<void(int64_t num_ended)>& on_progress);

}  // namespace plimsoll
