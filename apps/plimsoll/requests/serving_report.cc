#include "requests/serving_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "shared/terminal.h"

namespace plimsoll {
namespace {

bool is_good(const RequestRecord& request, const std::vector<Objective>& objectives) {
  return std::ranges::all_of(objectives, [&](const Objective& objective) {
    using Metric = Objective::Metric;
    const double seconds = objective.metric == Metric::kTtft   ? request.first_token_s
                           : objective.metric == Metric::kTpot ? request.time_per_output_token_s()
                                                               : request.end_s;
    return seconds * 1000 <= objective.limit_ms;
  });
}

std::vector<std::string> latency_row(std::string name, const Distribution& ms) {
  std::vector<std::string> row = {std::move(name)};
  for (const double value : {ms.mean, ms.p50, ms.p99, ms.max}) {
    row.push_back(fmt::format("{:.2f}", value));
  }
  return row;
}

}  // namespace

Result<Objective> parse_objective(std::string_view text) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string_view name = text.substr(0, colon);
  const std::string_view limit = text.substr(std::min(colon + 1, text.size()));
  Objective objective;
  const auto [end, error] =
      std::from_chars(limit.data(), limit.data() + limit.size(), objective.limit_ms);
  const bool is_number = error == std::errc() && end == limit.data() + limit.size();
  const bool is_known = name == "ttft" || name == "tpot" || name == "e2el" || name == "e2e";
  if (!is_known || !is_number || !(objective.limit_ms > 0)) {
    return invalid_argument(fmt::format(
        "--goodput got '{}'; it takes a limit in milliseconds for each of ttft, tpot and e2el, "
        "such as ttft:500 tpot:50",
        text));
  }
  objective.metric = name == "ttft"   ? Objective::Metric::kTtft
                     : name == "tpot" ? Objective::Metric::kTpot
                                      : Objective::Metric::kE2e;
  return objective;
}

ServingReport summarize(const ServingRun& run, const std::vector<Objective>& objectives) {
  ServingReport report{.duration_s = run.duration_s,
                       .peak_concurrency = run.peak_concurrency,
                       .has_objectives = !objectives.empty()};
  std::vector<double> ttft, tpot, itl, e2e;
  for (const RequestRecord& request : run.requests) {
    if (!request.error.empty()) {
      ++report.num_failed;
      ++report.errors[request.error];
      continue;
    }
    ++report.num_completed;
    report.num_prompt_tokens += request.num_prompt_tokens;
    report.num_tokens += request.num_tokens;
    report.has_usage = report.has_usage && request.has_usage;
    report.num_good += is_good(request, objectives);
    ttft.push_back(request.first_token_s * 1000);
    e2e.push_back(request.end_s * 1000);
    if (request.num_tokens > 1) tpot.push_back(request.time_per_output_token_s() * 1000);
    for (const double seconds : request.inter_token_s) itl.push_back(seconds * 1000);
  }
  report.ttft_ms = distribution_of(std::move(ttft));
  report.tpot_ms = distribution_of(std::move(tpot));
  report.itl_ms = distribution_of(std::move(itl));
  report.e2e_ms = distribution_of(std::move(e2e));
  return report;
}

std::string as_text(const ServingReport& report) {
  std::string text = fmt::format(
      "requests             {} completed, {} failed, in {:.2f} s; {} at once at most\n",
      report.num_completed, report.num_failed, report.duration_s, report.peak_concurrency);
  for (const auto& [error, count] : report.errors) {
    text += fmt::format("  {} failed: {}\n", count, error);
  }
  text += fmt::format("request throughput   {:.2f} requests/s\n",
                      report.per_second(report.num_completed));
  if (report.has_objectives) {
    text += fmt::format("goodput              {:.2f} requests/s ({} of {} kept to the limits)\n",
                        report.per_second(report.num_good), report.num_good, report.num_completed);
  }
  text += fmt::format("output throughput    {:.0f} tokens/s ({} tokens{})\n",
                      report.per_second(report.num_tokens), report.num_tokens,
                      report.has_usage ? "" : ", by pieces: the server sent no usage");
  if (report.has_usage) {
    text += fmt::format("with prompts         {:.0f} tokens/s ({} tokens)\n",
                        report.per_second(report.num_tokens + report.num_prompt_tokens),
                        report.num_tokens + report.num_prompt_tokens);
  }
  return text + "\n" +
         table_text({{"milliseconds", "mean", "p50", "p99", "max"},
                     latency_row("time to first token (TTFT)", report.ttft_ms),
                     latency_row("time per output token (TPOT)", report.tpot_ms),
                     latency_row("between tokens (ITL)", report.itl_ms),
                     latency_row("whole request (E2E)", report.e2e_ms)});
}

Json to_json(const ServingReport& report) {
  Json json = {{"completed", report.num_completed},
               {"failed", report.num_failed},
               {"errors", report.errors},
               {"duration_s", report.duration_s},
               {"peak_concurrency", report.peak_concurrency},
               {"prompt_tokens", report.num_prompt_tokens},
               {"generated_tokens", report.num_tokens},
               {"tokens_from_usage", report.has_usage},
               {"requests_per_s", report.per_second(report.num_completed)},
               {"generated_tokens_per_s", report.per_second(report.num_tokens)},
               {"tokens_per_s", report.per_second(report.num_tokens + report.num_prompt_tokens)}};
  if (report.has_objectives) {
    json["good"] = report.num_good;
    json["goodput_requests_per_s"] = report.per_second(report.num_good);
  }
  json["ttft_ms"] = to_json(report.ttft_ms);
  json["tpot_ms"] = to_json(report.tpot_ms);
  json["itl_ms"] = to_json(report.itl_ms);
  json["e2e_ms"] = to_json(report.e2e_ms);
  return json;
}

}  // namespace plimsoll
