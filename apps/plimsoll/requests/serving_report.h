// What a load on a server measured, summed up.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "requests/run_stats.h"
#include "requests/serving_load.h"

namespace plimsoll {

// What a request must keep to in order to be good: "ttft:500" is a first token within 500 ms.
struct Objective {
  enum class Metric { kTtft, kTpot, kE2e } metric = Metric::kTtft;
  double limit_ms = 0;
};
// "METRIC:MILLISECONDS", the metric one of ttft, tpot and e2el (or e2e).
Result<Objective> parse_objective(std::string_view text);

struct ServingReport {
  int64_t num_completed = 0;
  int64_t num_failed = 0;
  std::map<std::string, int64_t> errors;  // requests by what went wrong
  double duration_s = 0;
  int peak_concurrency = 0;
  int64_t num_prompt_tokens = 0;
  int64_t num_tokens = 0;  // generated
  bool has_usage = true;   // false: some server's answers did not say; pieces were counted
  int64_t num_good = 0;    // completed, and kept to every objective
  bool has_objectives = false;
  // Milliseconds, of completed requests.
  Distribution ttft_ms, tpot_ms, itl_ms, e2e_ms;

  double per_second(int64_t count) const {
    return duration_s > 0 ? static_cast<double>(count) / duration_s : 0;
  }
};

ServingReport summarize(const ServingRun& run, const std::vector<Objective>& objectives);
std::string as_text(const ServingReport& report);
Json to_json(const ServingReport& report);

}  // namespace plimsoll
