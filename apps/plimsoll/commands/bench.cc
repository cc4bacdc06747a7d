// plimsoll bench: offline throughput, balance, and where the time goes.
#include <fmt/format.h>
#include <sys/resource.h>

#include "options/commands.h"
#include "requests/prompts.h"
#include "requests/run_requests.h"
#include "requests/text_requests.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

std::vector<std::string> balance_row(std::string name, const std::vector<double>& ratios) {
  const Distribution d = distribution_of(ratios);
  return {std::move(name), fmt::format("{:.4f}", d.mean), fmt::format("{:.4f}", d.p50),
          fmt::format("{:.4f}", d.p99), fmt::format("{:.4f}", d.max)};
}

std::string time_line(const RunStats& stats, int num_ranks) {
  const PhaseSeconds& phases = stats.phases;
  const double total = phases.total();
  if (total <= 0) return "";
  const auto share = [&](double seconds) { return 100 * seconds / total; };
  return fmt::format(
      "time of a rank       {:.2f} s: attention {:.0f} %, routing {:.0f} %, dispatch {:.0f} %,\n   "
      "                  "
      "experts {:.0f} %, combine {:.0f} %, other {:.0f} %\n",
      total / num_ranks, share(phases.attention), share(phases.routing), share(phases.dispatch),
      share(phases.experts), share(phases.combine), share(phases.other));
}

// What --route-objective time wants to know.
std::string expert_time_line(const RunStats& stats) {
  const auto found = fit(stats.expert_times);
  if (!found) return "time of an expert    not known: every layer had as many tokens an expert\n";
  return fmt::format(
      "time of an expert    {:.0f} ns + {:.0f} ns a token (R² {:.3f}, error {:.0f} %, {} "
      "samples):\n"
      "                     replay --route-objective time --ns-per-expert {:.0f} --ns-per-token "
      "{:.0f}\n",
      found->ns_per_expert, found->ns_per_token, found->r_squared, 100 * found->relative_error,
      found->num_samples, found->ns_per_expert, found->ns_per_token);
}

std::string as_text(const RunStats& stats, int num_ranks) {
  const BalanceStats& balance = stats.balance;
  return fmt::format(
             "prefill              {:.0f} tokens/s ({} tokens in {:.2f} s)\n"
             "decode               {:.0f} tokens/s ({} tokens in {:.2f} s)\n"
             "all                  {:.0f} tokens/s ({} steps in {:.2f} s)\n",
             stats.prefill_tokens_per_second(), stats.num_prefill_tokens, stats.prefill_seconds,
             stats.decode_tokens_per_second(), stats.num_decode_tokens, stats.decode_seconds,
             stats.tokens_per_second(), stats.num_steps, stats.seconds()) +
         time_line(stats, num_ranks) + expert_time_line(stats) +
         fmt::format("between ranks        {} rows, {:.1f} MB\n", stats.traffic.num_messages,
                     static_cast<double>(stats.traffic.num_bytes) / 1e6) +
         fmt::format("memory               {:.0f} MB at most\n\n",
                     static_cast<double>(peak_memory_bytes()) / 1e6) +
         table_text({{"max/mean tokens per rank", "mean", "p50", "p99", "max"},
                     balance_row("with the shared expert", balance.total),
                     balance_row("without it", balance.routed),
                     balance_row("bound (with it)", balance.bound)});
}

std::string as_json(const RunStats& stats, const Settings& settings, size_t num_prompts) {
  Json json = {{"ep_size", settings.engine.ep_size},
               {"num_prompts", num_prompts},
               {"concurrency", settings.input.concurrency},
               {"max_tokens", settings.sampling.max_tokens}};
  json.update(to_json(stats));
  json["memory_bytes_peak"] = peak_memory_bytes();
  return json.dump(2) + "\n";
}

}  // namespace

Result<int> run_bench(const Settings& settings) {
  const auto read = read_prompts(settings.input.dataset);
  if (!read) return read.error();
  const auto model = load_text_model(settings.engine.model_dir);
  if (!model) return model.error();
  const std::vector<std::string> prompts = repeated(*read, settings.input.num_prompts);
  auto requests = make_requests(*model, prompts, settings.sampling);
  if (!requests) return requests.error();
  for (Request& request : *requests) request.ignore_eos = true;  // the same work on every run
  auto engine = start_engine(settings.engine);
  if (!engine) return engine.error();

  const auto stats = run_requests(**engine, std::move(*requests), settings.input.concurrency,
                                  "running", [](RequestUpdate&) {});
  if (!stats) return stats.error();
  if (auto saved = finish_recording(**engine, settings.recorder_dir); !saved) return saved.error();
  print(settings.json ? as_json(*stats, settings, prompts.size())
                      : as_text(*stats, settings.engine.ep_size));
  return kExitDone;
}

}  // namespace plimsoll
