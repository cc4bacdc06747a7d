// plimsoll generate: continue prompts.
#include <fmt/format.h>

#include "options/commands.h"
#include "record/formats/json_text.h"
#include "requests/prompts.h"
#include "requests/run_requests.h"
#include "requests/text_requests.h"
#include "shared/terminal.h"

namespace plimsoll {
namespace {

Result<std::vector<std::string>> all_prompts(const InputSettings& input) {
  std::vector<std::string> prompts = input.prompts;
  if (!input.prompt_files.empty()) {
    auto from_files = read_prompts(input.prompt_files);
    if (!from_files) return from_files.error();
    prompts.insert(prompts.end(), from_files->begin(), from_files->end());
  }
  if (prompts.empty()) return invalid_argument("generate needs --prompt TEXT or --prompt-file F");
  return prompts;
}

std::string_view finish_name(FinishReason finish) {
  return finish == FinishReason::kStop ? "stop" : "length";
}

std::string as_json(const TextModel& model,
                    const std::vector<std::string>& prompts,
                    const std::vector<Completion>& completions,
                    const RunStats& stats) {
  Json list = Json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    list.push_back({{"prompt", prompts[i]},
                    {"text", model.tokenizer.decode(completions[i].tokens)},
                    {"token_ids", completions[i].tokens},
                    {"finish_reason", finish_name(completions[i].finish)}});
  }
  const Json json = {{"completions", list}, {"stats", to_json(stats)}};
  return json_text(json, 2) + "\n";
}

// Several completions are separated as prompts in a file are.
std::string as_text(const TextModel& model, const std::vector<Completion>& completions) {
  std::string text;
  for (const Completion& completion : completions) {
    if (!text.empty()) text += "%\n";
    text += model.tokenizer.decode(completion.tokens) + "\n";
  }
  return text;
}

}  // namespace

Result<int> run_generate(const Settings& settings) {
  const auto prompts = all_prompts(settings.input);
  if (!prompts) return prompts.error();
  const auto model = load_text_model(settings.engine.model_dir);
  if (!model) return model.error();
  auto requests = make_requests(*model, *prompts, settings.sampling);
  if (!requests) return requests.error();
  auto engine = start_engine(settings.engine);
  if (!engine) return engine.error();

  const bool streams = !settings.json && prompts->size() == 1;
  StreamDecoder stream(model->tokenizer);
  std::vector<Completion> completions(prompts->size());
  const auto take = [&](RequestUpdate& update) {
    Completion& completion = completions[update.request_id];
    completion.finish = update.finish;
    if (update.has_token && update.finish != FinishReason::kStop) {  // the end token is no text
      completion.tokens.push_back(update.result.next.token);
      if (streams) print_now(stream.push(update.result.next.token));
    }
  };
  const auto stats = run_requests(**engine, std::move(*requests), prompts->size(),
                                  streams ? "" : "generating", take);
  if (!stats) return stats.error();
  if (auto saved = finish_recording(**engine, settings.recorder_dir); !saved) return saved.error();
  if (settings.json) {
    print(as_json(*model, *prompts, completions, *stats));
  } else {
    print(streams ? stream.finish() + "\n" : as_text(*model, completions));
  }
  return kExitDone;
}

}  // namespace plimsoll
