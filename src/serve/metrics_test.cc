// docs/metrics.md against what a running server exports.
#include "serve/loop/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "serve/http/http_test_client.h"
#include "serve/server.h"

namespace plimsoll {
namespace {

const std::string kRoot = PLIMSOLL_SOURCE_DIR;

// One metric as the exposition format tells of it.
struct Exported {
  std::string type;
  std::string help;
  std::map<std::string, std::set<std::string>> labels;  // values by name
  int num_series = 0;
};

std::map<std::string, Exported> parse_exposition(const std::string& text) {
  std::map<std::string, Exported> metrics;
  std::istringstream lines(text);
  std::string name;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, kind;
    if (line.starts_with("# ")) {
      words >> hash >> kind >> name >> std::ws;
      std::getline(words, kind == "HELP" ? metrics[name].help : metrics[name].type);
      continue;
    }
    ++metrics[name].num_series;
    const size_t end = line.rfind('}');
    for (size_t at = line.find('{') + 1; at < end;) {
      const size_t equals = line.find("=\"", at), close = line.find('"', equals + 2);
      metrics[name].labels[line.substr(at, equals - at)].insert(
          line.substr(equals + 2, close - equals - 2));
      at = close + 2;
    }
  }
  return metrics;
}

std::string unit_of(const std::string& name) {
  const std::map<std::string, std::string> units = {
      {"seconds", "seconds"},   {"bytes", "bytes"},
      {"ratio", "ratio"},       {"load", "(token, expert) pairs"},
      {"tokens", "tokens"},     {"messages", "rows"},
      {"requests", "requests"}, {"preemptions", "requests"},
      {"steps", "steps"},       {"rebalances", "rebalances"},
      {"layers", "layers"},     {"experts", "experts"},
      {"overs", "prompts"},     {"ranks", "ranks"},
      {"restarts", "restarts"}, {"copies", "copies"}};
  std::istringstream words(name);
  std::string unit = "?";
  for (std::string word; std::getline(words, word, '_');) {
    if (units.contains(word)) unit = units.at(word);
  }
  return unit;
}

bool is_number(const std::string& text) {
  return text.find_first_not_of("0123456789") == text.npos;
}

// "| `name` | type | unit | labels | series | help |"
std::string row_of(const std::string& name, const Exported& metric) {
  std::string labels, series;
  for (const auto& [label, values] : metric.labels) {
    if (label == "model_name" || label == "le") continue;
    labels += (labels.empty() ? "`" : ", `") + label + "`";
    if (is_number(*values.begin())) {  // as many as the model or the team has
      series += (series.empty() ? "" : " × ") + label + "s";
    } else {
      for (const std::string& value : values) {
        labels += (value == *values.begin() ? ": " : ", ") + value;
      }
    }
  }
  if (series.empty()) series = std::to_string(metric.num_series);
  return "| `" + name + "` | " + metric.type + " | " + unit_of(name) + " | " + labels + " | " +
         series + " | " + metric.help + " |";
}

std::set<std::string> documented_rows() {
  std::set<std::string> rows;
  std::ifstream page(kRoot + "/docs/metrics.md");
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("| `plimsoll_")) rows.insert(line);
  }
  return rows;
}

TEST(MetricsPage, IsWhatARunningServerExports) {
  Server server({.port = 0, .served_model_name = "demo", .expert_metrics_per_layer = true});
  ASSERT_TRUE(server.start());
  const std::string model = kRoot + "/demo/model";
  auto engine = Engine::create({.model_dir = model,
                                .ep_size = 4,
                                .ep_num_redundant_experts = 8,
                                .enable_eplb = true,
                                .eplb_rebalance_num_iterations = 4,
                                .pin_ranks = false});
  ASSERT_TRUE(engine) << engine.error().message;
  server.serve(std::move(*engine), *Tokenizer::load(model + "/tokenizer.json"));
  // Until a rebalance has been measured, which is when its last series appears.
  const std::string body = R"({"prompt": "def main():", "max_tokens": 16, "ignore_eos": true})";
  std::string text;
  do {
    ASSERT_EQ(status_of(ask(server.port(), "POST", "/v1/completions", body)), 200);
    text = body_of(ask(server.port(), "GET", "/metrics"));
  } while (text.find("when=\"measured\"") == text.npos);

  std::set<std::string> documented = documented_rows();
  EXPECT_FALSE(documented.empty());
  for (const auto& [name, metric] : parse_exposition(text)) {
    EXPECT_TRUE(metric.labels.contains("model_name")) << name;
    const std::string row = row_of(name, metric);
    EXPECT_EQ(documented.erase(row), 1u) << "docs/metrics.md lacks the row\n" << row;
  }
  for (const std::string& row : documented) {
    ADD_FAILURE() << "docs/metrics.md has a row that no server exports:\n" << row;
  }
  server.drain();
}

}  // namespace
}  // namespace plimsoll
