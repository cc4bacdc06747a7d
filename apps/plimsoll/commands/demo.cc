// plimsoll demo: the whole loop on one load. Record which experts the prompts select, plan from the
// recording, replay with the planned placements and Waterfill, and compare speed, balance and text.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "options/commands.h"
#include "plimsoll/expert_location.h"
#include "plimsoll/plan.h"
#include "requests/prompts.h"
#include "requests/run_requests.h"
#include "requests/text_requests.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

constexpr int kBalanceRanks = 8;  // balance is shown at this EP size, however few the cores
constexpr int kTimedRounds = 3;   // speed is the median of so many runs

struct Configuration {
  std::string name;
  bool planned = false;
  int num_redundant_experts = 0;
  bool waterfill = false;
};

using Tokens = std::vector<std::vector<int32_t>>;  // [prompt]

struct Run {
  RunStats stats;
  Tokens tokens;
};

struct Row {
  Configuration configuration;
  std::vector<double> tokens_per_second;  // [kTimedRounds]
  Distribution balance;                   // max/mean tokens per rank
  bool same_text = true;
};

std::vector<Row> make_rows(int num_redundant) {
  std::vector<Row> rows = {{{"trivial placement", false, 0, false}}, {{"EPLB", true, 0, false}}};
  if (num_redundant == 0) {
    rows.push_back({{"EPLB, Waterfill", true, 0, true}});
    return rows;
  }
  const std::string copies = fmt::format("EPLB, {} redundant experts", num_redundant);
  rows.push_back({{copies, true, num_redundant, false}});
  rows.push_back({{copies + ", Waterfill", true, num_redundant, true}});
  return rows;
}

// The largest EP size with a core for each rank over which all counts of slots divide.
int timed_ranks(int num_experts, int num_redundant) {
  int ranks = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  while (num_experts % ranks != 0 || num_redundant % ranks != 0) --ranks;
  return ranks;
}

Result<Run> run_load(Engine& engine, std::vector<Request> requests, const std::string& label) {
  const size_t num_requests = requests.size();
  Run run;
  run.tokens.resize(num_requests);
  auto stats = run_requests(engine, std::move(requests), static_cast<int>(num_requests), label,
                            [&](RequestUpdate& update) {
                              if (!update.has_token) return;
                              run.tokens[update.request_id].push_back(update.result.next.token);
                            });
  if (!stats) return stats.error();
  run.stats = std::move(*stats);
  return run;
}

// Plans for so many ranks, writes the placement to the output folder, and returns its path.
Result<std::string> plan_file(const LoadHistory& load,
                              const Configuration& configuration,
                              int num_ranks,
                              const Settings& settings) {
  const auto plan = make_plan(load, {.algorithm = settings.engine.eplb_algorithm,
                                     .num_ranks = num_ranks,
                                     .num_redundant_experts = configuration.num_redundant_experts});
  if (!plan) return plan.error();
  const std::string path = fmt::format("{}/placement_ep{}_{}_slots.json", settings.out_dir,
                                       num_ranks, plan->placement.num_physical_experts);
  if (Status saved = save_placement(plan->placement, path); !saved) return saved.error();
  return path;
}

// What the prompts were recorded to select, and what is needed to run them again.
struct Recorded {
  const Settings& settings;
  const std::vector<Request>& requests;
  LoadHistory load;
  Tokens tokens;
};

Result<Run> replay(const Recorded& recorded,
                   const Configuration& configuration,
                   int num_ranks,
                   const std::string& turn) {
  EngineOptions options = recorded.settings.engine;
  options.ep_size = num_ranks;
  options.ep_num_redundant_experts = configuration.num_redundant_experts;
  options.enable_waterfill = configuration.waterfill;
  if (configuration.planned) {
    auto path = plan_file(recorded.load, configuration, num_ranks, recorded.settings);
    if (!path) return path.error();
    options.init_expert_location = std::move(*path);
  }
  auto engine = start_engine(options);
  if (!engine) return engine.error();
  return run_load(**engine, recorded.requests,
                  fmt::format("{}: EP {}, {}", turn, num_ranks, configuration.name));
}

// Balance first, then speed, the configurations taking turns so that a slow moment hits them alike.
Status replay_all(const Recorded& recorded, int num_timed_ranks, std::vector<Row>& rows) {
  const size_t num_turns = rows.size() * (1 + kTimedRounds);
  size_t turn = 0;
  const auto next_turn = [&] { return fmt::format("{}/{}", ++turn, num_turns); };
  for (Row& row : rows) {
    const auto run = replay(recorded, row.configuration, kBalanceRanks, next_turn());
    if (!run) return run.error();
    row.balance = distribution_of(run->stats.balance.total);
    row.same_text = run->tokens == recorded.tokens;
  }
  for (int round = 0; round < kTimedRounds; ++round) {
    for (Row& row : rows) {
      const auto run = replay(recorded, row.configuration, num_timed_ranks, next_turn());
      if (!run) return run.error();
      row.tokens_per_second.push_back(run->stats.tokens_per_second());
      row.same_text = row.same_text && run->tokens == recorded.tokens;
    }
  }
  return ok_status();
}

// Runs the prompts on the trivial placement, writes the recording and all the text.
Result<Recorded> record(const Settings& settings,
                        const TextModel& model,
                        const std::vector<std::string>& prompts,
                        const std::vector<Request>& requests,
                        int num_ranks) {
  EngineOptions options = settings.engine;
  options.ep_size = num_ranks;
  options.ep_num_redundant_experts = 0;
  options.expert_distribution_recorder_mode = "stat";
  auto engine = start_engine(options);
  if (!engine) return engine.error();
  auto run = run_load(**engine, requests, "recording");
  if (!run) return run.error();
  const auto files = finish_recording(**engine, settings.out_dir);
  if (!files) return files.error();
  const auto counts = load_expert_counts(*files);
  if (!counts) return counts.error();

  const std::string text_path = settings.out_dir + "/generated.txt";
  std::ofstream text(text_path);
  for (size_t i = 0; i < prompts.size(); ++i) {
    text << prompts[i] << " >>>" << model.tokenizer.decode(run->tokens[i]) << "\n%\n";
  }
  if (!text.flush()) return io_error(text_path + " could not be written");
  talk("generated text in " + text_path);
  return Recorded{settings, requests, counts->history, std::move(run->tokens)};
}

std::string as_text(const std::vector<Row>& rows, int num_timed_ranks) {
  std::vector<std::vector<std::string>> table = {
      {"configuration", fmt::format("tokens/s (EP {})", num_timed_ranks),
       fmt::format("max/mean (EP {})", kBalanceRanks), "p99", "same text?"}};
  for (const Row& row : rows) {
    table.push_back({row.configuration.name,
                     fmt::format("{:.0f}", distribution_of(row.tokens_per_second).p50),
                     fmt::format("{:.3f}", row.balance.mean),
                     fmt::format("{:.3f}", row.balance.p99), row.same_text ? "yes" : "NO"});
  }
  return table_text(table);
}

std::string as_json(const std::vector<Row>& rows, int num_timed_ranks) {
  Json list = Json::array();
  for (const Row& row : rows) {
    list.push_back({{"configuration", row.configuration.name},
                    {"tokens_per_s", distribution_of(row.tokens_per_second).p50},
                    {"max_over_mean", to_json(row.balance)},
                    {"same_text", row.same_text}});
  }
  const Json json = {
      {"ep_size_timed", num_timed_ranks}, {"ep_size_balance", kBalanceRanks}, {"rows", list}};
  return json.dump(2) + "\n";
}

}  // namespace

Result<int> run_demo(const Settings& settings) {
  const auto prompts = read_prompts(settings.input.dataset);
  if (!prompts) return prompts.error();
  const auto model = load_text_model(settings.engine.model_dir);
  if (!model) return model.error();
  auto requests = make_requests(*model, *prompts, settings.sampling);
  if (!requests) return requests.error();
  for (Request& request : *requests) request.ignore_eos = true;
  std::error_code error;
  std::filesystem::create_directories(settings.out_dir, error);
  if (error) return io_error(fmt::format("{}: {}", settings.out_dir, error.message()));

  const int num_redundant = settings.engine.ep_num_redundant_experts;
  const int num_ranks = timed_ranks(model->config.n_routed_experts, num_redundant);
  talk(fmt::format("1. record: generating for {} prompts on the trivial placement",
                   prompts->size()));
  const auto recorded = record(settings, *model, *prompts, *requests, num_ranks);
  if (!recorded) return recorded.error();
  talk("2. plan and replay: the same prompts with planned placements and Waterfill");
  std::vector<Row> rows = make_rows(num_redundant);
  if (Status replayed = replay_all(*recorded, num_ranks, rows); !replayed) return replayed.error();
  print(settings.json ? as_json(rows, num_ranks) : as_text(rows, num_ranks));
  const bool same = std::all_of(rows.begin(), rows.end(), [](const Row& r) { return r.same_text; });
  return same ? kExitDone : kExitFailed;
}

}  // namespace plimsoll
