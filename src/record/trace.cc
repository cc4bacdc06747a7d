#include "plimsoll/trace.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "plimsoll/expert_location.h"
#include "record/formats/file_io.h"
#include "record/formats/json_text.h"
#include "record/formats/npy.h"
#include "record/rank_files.h"
#include "record/trace_parts.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMaxExperts = 1 << 15;  // an id takes 16 bits

Error at(const std::string& path, const Error& error) {
  return {error.code, path + ": " + error.message};
}

bool has_extension(const std::string& path, const char* extension) {
  return fs::path(path).extension() == extension;
}

Result<ExpertTrace> load_u8(const std::string& path) {
  const std::string header_path = fs::path(path).replace_extension(".json").string();
  const auto header = read_file(header_path);
  if (!header.ok()) return header.error();
  const auto ids = read_file(fs::path(path).replace_extension(".u8").string());
  if (!ids.ok()) return ids.error();
  const auto* text = reinterpret_cast<const char*>(header->data());
  Result<ExpertTrace> trace = parse_u8_trace({text, header->size()}, *ids);
  if (!trace.ok()) return at(path, trace.error());
  return trace;
}

Result<ExpertTrace> load_npy(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  const Result<NumberArray> numbers = parse_npy(*bytes);
  if (!numbers.ok()) return at(path, numbers.error());
  Result<ExpertTrace> trace = trace_of(*numbers);
  if (!trace.ok()) return at(path, trace.error());
  return trace;
}

void append_pass(const RecordedPass& pass, ExpertTrace& trace) {
  for (int64_t t = 0; t < pass.num_tokens; ++t) {
    for (int l = 0; l < trace.num_layers; ++l) {
      const int32_t* row = pass.topk_ids.data() + (l * pass.num_tokens + t) * trace.top_k;
      for (int k = 0; k < trace.top_k; ++k) trace.ids.push_back(static_cast<int16_t>(row[k]));
    }
  }
}

// Columns that no token uses are left out: SGLang's files have 8, whatever the model's top-k.
void drop_unused_columns(ExpertTrace& trace) {
  const auto width = static_cast<size_t>(trace.top_k);
  size_t used = 1;
  for (size_t i = 0; i < trace.ids.size(); ++i) {
    if (trace.ids[i] >= 0) used = std::max(used, i % width + 1);
  }
  for (size_t row = 0; row < trace.ids.size() / width; ++row) {
    std::copy_n(trace.ids.begin() + static_cast<ptrdiff_t>(row * width), used,
                trace.ids.begin() + static_cast<ptrdiff_t>(row * used));
  }
  trace.ids.resize(trace.ids.size() / width * used);
  trace.top_k = static_cast<int>(used);
}

Result<ExpertTrace> load_recordings(const std::vector<std::string>& paths,
                                    const LoadOptions& options) {
  const Result<RankFiles> ranks = open_rank_files(paths, options);
  if (!ranks.ok()) return ranks.error();
  const Recording& about = ranks->files.front().records.about;
  if (about.mode != RecorderMode::kPerToken) {
    return invalid_argument(paths.front() +
                            " counts tokens without saying which chose what; a trace needs "
                            "a recording of the mode per_token");
  }
  if (about.num_logical_experts > kMaxExperts) return unsupported("has more than 32768 experts");
  ExpertTrace trace{.model = about.info ? about.info->model_type : "",
                    .num_layers = about.num_layers,
                    .num_logical_experts = about.num_logical_experts,
                    .top_k = about.top_k};
  const auto append = [&](int64_t, std::span<const RecordedPass> parts) {
    for (const RecordedPass& part : parts) append_pass(part, trace);
    return ok_status();
  };
  const Status read = each_pass(*ranks, /*with_tokens=*/true, options, append);
  if (!read.ok()) return read.error();
  drop_unused_columns(trace);
  return trace;
}

}  // namespace

Result<ExpertTrace> parse_u8_trace(std::string_view header, std::span<const std::byte> ids) {
  const Result<json> sizes = parse_json(header);
  if (!sizes.ok()) return at("its .json", sizes.error());
  const auto size = [&](const char* key, int64_t most) {
    const json& value = member(*sizes, key);
    const bool good = value.is_number_unsigned() && value.get<uint64_t>() >= 1 &&
                      value.get<uint64_t>() <= static_cast<uint64_t>(most);
    return good ? value.get<int64_t>() : 0;
  };
  const int64_t num_tokens = size("tokens", std::ssize(ids));
  const int64_t num_layers = size("layers", std::ssize(ids));
  const int64_t top_k = size("topk", 256);
  const int64_t num_experts = size("experts", 256);
  if (num_tokens == 0 || num_layers == 0 || top_k == 0 || num_experts == 0 ||
      num_layers > std::ssize(ids) / top_k / num_tokens ||
      num_tokens * num_layers * top_k != std::ssize(ids)) {
    return corrupt_file(
        "its .json must say tokens, layers, topk and experts (256 at most), and the "
        "first three must multiply to the " +
        std::to_string(ids.size()) + " ids that are there");
  }
  ExpertTrace trace;
  const json& model = member(*sizes, "model");
  if (model.is_string()) trace.model = model.get<std::string>();
  trace.num_layers = static_cast<int>(num_layers);
  trace.num_logical_experts = static_cast<int>(num_experts);
  trace.top_k = static_cast<int>(top_k);
  trace.ids.reserve(ids.size());
  for (const std::byte id : ids) {
    if (std::to_integer<int64_t>(id) >= num_experts) {
      return corrupt_file("names expert " + std::to_string(std::to_integer<int>(id)) + " of " +
                          std::to_string(num_experts));
    }
    trace.ids.push_back(std::to_integer<int16_t>(id));
  }
  return trace;
}

Result<ExpertTrace> trace_of(const NumberArray& numbers) {
  if (numbers.shape.size() != 3 || numbers.values.empty() || numbers.rounded ||
      numbers.shape[1] > INT32_MAX || numbers.shape[2] > INT32_MAX) {
    return invalid_argument("has shape " + shape_to_text(numbers.shape) +
                            "; a trace is integers [tokens, layers, k]");
  }
  const auto [least, most] = std::ranges::minmax(numbers.values);
  if (least < -1 || most >= kMaxExperts) {
    return invalid_argument("names experts from " + std::to_string(least) + " to " +
                            std::to_string(most) + "; expected 0 to 32767, or -1 for none");
  }
  ExpertTrace trace;
  trace.num_layers = static_cast<int>(numbers.shape[1]);
  trace.num_logical_experts = static_cast<int>(std::max<int64_t>(most + 1, 1));
  trace.top_k = static_cast<int>(numbers.shape[2]);
  trace.ids.assign(numbers.values.begin(), numbers.values.end());
  return trace;
}

Result<ExpertTrace> load_trace(const std::string& path) {
  if (has_extension(path, ".npy")) return load_npy(path);
  if (has_extension(path, ".pt")) return load_recordings({path}, {});
  if (has_extension(path, ".u8") || has_extension(path, ".json")) return load_u8(path);
  return invalid_argument("cannot tell the format of " + path +
                          "; a trace ends in .u8, .npy or .pt");
}

Result<ExpertTrace> load_trace(const std::vector<std::string>& patterns,
                               const LoadOptions& options) {
  std::vector<std::string> paths;
  for (const std::string& pattern : patterns) {
    const auto matches = matching_paths(pattern);
    if (!matches.ok()) return matches.error();
    paths.insert(paths.end(), matches->begin(), matches->end());
  }
  if (paths.empty()) return invalid_argument("no trace was given");
  if (std::ranges::all_of(paths, [](const auto& path) { return has_extension(path, ".pt"); })) {
    return load_recordings(paths, options);
  }
  Result<ExpertTrace> all = load_trace(paths.front());
  for (size_t i = 1; i < paths.size() && all.ok(); ++i) {
    const Result<ExpertTrace> next = load_trace(paths[i]);
    if (!next.ok()) return next;
    if (next->num_layers != all->num_layers || next->top_k != all->top_k) {
      return invalid_argument(paths[i] + " has " + std::to_string(next->num_layers) +
                              " layers and top-" + std::to_string(next->top_k) + ", but " +
                              paths.front() + " has " + std::to_string(all->num_layers) +
                              " and top-" + std::to_string(all->top_k));
    }
    all->num_logical_experts = std::max(all->num_logical_experts, next->num_logical_experts);
    all->ids.insert(all->ids.end(), next->ids.begin(), next->ids.end());
  }
  return all;
}

Status save_trace(const ExpertTrace& trace, const std::string& path) {
  if (trace.num_logical_experts > 256 || std::ranges::count(trace.ids, -1) > 0) {
    return unsupported("a .u8 trace holds ids from 0 to 255 only");
  }
  std::vector<std::byte> ids;
  ids.reserve(trace.ids.size());
  for (const int16_t id : trace.ids) ids.push_back(static_cast<std::byte>(id));
  const json header = {{"model", trace.model},
                       {"tokens", trace.num_tokens()},
                       {"layers", trace.num_layers},
                       {"topk", trace.top_k},
                       {"experts", trace.num_logical_experts},
                       {"dtype", "uint8"},
                       {"order", "[token][layer][k]"}};
  const std::string text = json_text(header, -1, /*ascii=*/true) + "\n";
  const fs::path base(path);
  Status done = write_file(fs::path(base).replace_extension(".u8").string(), ids);
  if (!done.ok()) return done;
  return write_file(fs::path(base).replace_extension(".json").string(),
                    std::as_bytes(std::span(text)));
}

LoadHistory count_experts(const ExpertTrace& trace, int64_t tokens_per_step) {
  const int64_t num_steps = (trace.num_tokens() + tokens_per_step - 1) / tokens_per_step;
  LoadHistory history{static_cast<int>(num_steps), trace.num_layers, trace.num_logical_experts, {}};
  const size_t step_size = static_cast<size_t>(trace.num_layers) * trace.num_logical_experts;
  history.counts.assign(num_steps * step_size, 0);
  const size_t token_size = static_cast<size_t>(trace.num_layers) * trace.top_k;
  for (size_t i = 0; i < trace.ids.size(); ++i) {
    if (trace.ids[i] < 0) continue;
    const size_t step = i / token_size / tokens_per_step;
    const size_t layer = i % token_size / trace.top_k;
    ++history.counts[step * step_size + layer * trace.num_logical_experts + trace.ids[i]];
  }
  return history;
}

Result<LoadHistory> counts_of_trace(const ExpertTrace& trace) {
  constexpr size_t kAlwaysAllowedBytes = 64 << 20;
  const size_t num_steps = (trace.num_tokens() + kStepTokens - 1) / kStepTokens;
  const size_t count_bytes =
      num_steps * trace.num_layers * trace.num_logical_experts * sizeof(int64_t);
  if (count_bytes > kAlwaysAllowedBytes + kMaxCountBytesPerId * trace.ids.size()) {
    return unsupported("has " + std::to_string(trace.num_layers) + " layers of " +
                       std::to_string(trace.num_logical_experts) + " experts, far more than its " +
                       std::to_string(trace.ids.size()) + " ids can tell about");
  }
  return count_experts(trace, kStepTokens);
}

Result<LoadedCounts> counts_of_trace_file(const ExpertTrace& trace) {
  Result<LoadHistory> history = counts_of_trace(trace);
  if (!history.ok()) return history.error();
  const int num_steps = history->num_steps;
  return LoadedCounts{
      .history = std::move(*history),
      .num_steps = num_steps,
      .format = "trace",
      .info = {},
      .notes = {"the trace was cut into steps of " + std::to_string(kStepTokens) + " tokens"}};
}

}  // namespace plimsoll
