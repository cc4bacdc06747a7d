#include "record/formats/json_text.h"

#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace plimsoll {

using nlohmann::json;

Result<json> parse_json(std::string_view text) {
  constexpr int kMaxDepth = 64;
  std::vector<std::unordered_set<std::string>> keys;  // of each object that is open
  std::optional<std::string> repeated;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        too_deep = too_deep || depth >= kMaxDepth;
        return depth < kMaxDepth;  // what lies deeper is not kept
      case json::parse_event_t::key:
        if (!keys.back().insert(value.get_ref<const std::string&>()).second)
          repeated = value.get<std::string>();
        return true;
      case json::parse_event_t::object_end:
        keys.pop_back();
        return true;
      default:
        return true;
    }
  };
  json parsed;
  try {
    parsed = json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    return corrupt_file("is not JSON: bad syntax at byte " + std::to_string(error.byte));
  } catch (const json::exception&) {
    return corrupt_file("is not JSON that can be held: a number is out of range");
  }
  if (too_deep) {
    return corrupt_file("nests JSON more than " + std::to_string(kMaxDepth) + " levels deep");
  }
  if (repeated) return corrupt_file("has the key \"" + *repeated + "\" twice");
  return parsed;
}

const json& member(const json& value, std::string_view name) {
  static const json kNone;
  const auto found = value.find(name);
  return found == value.end() ? kNone : *found;
}

std::string excerpt(const json& value) {
  constexpr bool kAsciiOnly = true;  // so that no character is cut in half
  return value.dump(-1, ' ', kAsciiOnly).substr(0, 120);
}

}  // namespace plimsoll
