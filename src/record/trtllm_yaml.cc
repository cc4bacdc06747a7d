#include "record/trtllm_yaml.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <vector>

#include "record/counts.h"

namespace plimsoll {
namespace {

constexpr std::string_view kKey = "initial_global_assignments";
constexpr int64_t kMaxLayer = 1 << 20;

// Reads numbers and the characters around them; line ends, indentation, quotes and comments are
// blanks.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  bool skip(char wanted) {
    skip_blanks();
    if (text_.empty() || text_.front() != wanted) return false;
    text_.remove_prefix(1);
    return true;
  }

  std::optional<int64_t> number() {
    skip_blanks();
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (error != std::errc()) return std::nullopt;
    text_.remove_prefix(end - text_.data());
    return value;
  }

 private:
  void skip_blanks() {
    while (!text_.empty() && std::string_view(" \t\r\n\"'#").find(text_.front()) != text_.npos) {
      const bool is_comment = text_.front() == '#';
      text_.remove_prefix(is_comment ? std::min(text_.find('\n'), text_.size()) : 1);
    }
  }

  std::string_view text_;
};

// "[1, 2, 3]", or lines of "- 1".
std::optional<std::vector<int64_t>> parse_row(Scanner& scanner) {
  std::vector<int64_t> row;
  if (!scanner.skip('[')) {
    while (scanner.skip('-')) {
      const auto expert = scanner.number();
      if (!expert) return std::nullopt;
      row.push_back(*expert);
    }
    return row;
  }
  while (!scanner.skip(']')) {
    const auto expert = scanner.number();
    if (!expert) return std::nullopt;
    row.push_back(*expert);
    if (scanner.skip(',')) continue;
    if (!scanner.skip(']')) return std::nullopt;
    break;
  }
  return row;
}

// What the file says of itself, if it does.
std::optional<int64_t> stated_slots(std::string_view text) {
  constexpr std::string_view kSlots = "\nnum_slots:";
  if (text.starts_with(kSlots.substr(1))) return Scanner(text.substr(kSlots.size() - 1)).number();
  const size_t found = text.find(kSlots);
  if (found == text.npos) return std::nullopt;
  return Scanner(text.substr(found + kSlots.size())).number();
}

}  // namespace

Result<ExpertMap> parse_trtllm_yaml(std::string_view text) {
  const size_t found = text.find(std::string(kKey) + ":");
  if (found == text.npos) {
    return invalid_argument("has no " + std::string(kKey) + ", so it is no static placement");
  }
  Scanner scanner(text.substr(found + kKey.size() + 1));
  scanner.skip('{');
  std::map<int64_t, std::vector<int64_t>> rows;
  while (const auto layer = scanner.number()) {
    if (!scanner.skip(':')) return corrupt_file("has no ':' after layer " + std::to_string(*layer));
    auto row = parse_row(scanner);
    if (!row) return corrupt_file("has no list of experts at layer " + std::to_string(*layer));
    if (!rows.emplace(*layer, std::move(*row)).second) {
      return corrupt_file("has layer " + std::to_string(*layer) + " twice");
    }
    scanner.skip(',');
  }
  if (rows.empty()) return corrupt_file("assigns no layer");

  const auto num_rows = static_cast<int64_t>(rows.size());
  const auto num_slots = static_cast<int64_t>(rows.begin()->second.size());
  const int64_t first_layer = rows.begin()->first;
  if (const auto stated = stated_slots(text); stated && *stated != num_slots) {
    return corrupt_file("says num_slots is " + std::to_string(*stated) + ", but its layers have " +
                        std::to_string(num_slots) + " slots");
  }
  NumberArray numbers{{num_rows, num_slots}, {}};
  if (first_layer < 0 || first_layer > kMaxLayer) {
    return corrupt_file("has layer " + std::to_string(first_layer));
  }
  std::vector<int32_t> layer_ids;
  for (const auto& [layer, row] : rows) {
    if (layer > kMaxLayer) return corrupt_file("has layer " + std::to_string(layer));
    layer_ids.push_back(static_cast<int32_t>(layer));
    if (static_cast<int64_t>(row.size()) != num_slots) {
      return corrupt_file("has " + std::to_string(row.size()) + " slots in layer " +
                          std::to_string(layer) + ", but " + std::to_string(num_slots) +
                          " in the first");
    }
    numbers.values.insert(numbers.values.end(), row.begin(), row.end());
  }
  Result<ExpertMap> map = map_of(numbers);
  if (!map.ok()) return map;
  map->format = "TensorRT-LLM";
  map->layer_ids = std::move(layer_ids);
  return map;
}

std::string to_trtllm_yaml(const Placement& placement, std::span<const int32_t> layer_ids) {
  std::string text = "num_slots: " + std::to_string(placement.num_physical_experts) + "\n" +
                     std::string(kKey) + ":\n";
  for (int l = 0; l < placement.num_layers; ++l) {
    text += "  " + std::to_string(layer_ids[l]) + ": [";
    const auto experts = placement.layer(l);
    for (size_t i = 0; i < experts.size(); ++i) {
      text += (i ? ", " : "") + std::to_string(experts[i]);
    }
    text += "]\n";
  }
  return text + "layer_updates_per_iter: 0\n";
}

}  // namespace plimsoll
