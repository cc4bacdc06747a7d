#include "options/config_file.h"

#include <fmt/format.h>

#include "record/formats/json_text.h"
#include "shared/suggest.h"
#include "shared/text_file.h"

namespace plimsoll {
namespace {

using Json = nlohmann::json;

Result<Json> read_json_object(const std::string& path) {
  const auto text = read_text(path);
  if (!text) return text.error();
  auto json = parse_json(*text);
  if (!json) return corrupt_file(fmt::format("--config {} {}", path, json.error().message));
  if (!json->is_object()) {
    return corrupt_file(
        fmt::format("--config {}: expected a JSON object such as {{\"ep-size\": 8}}, found {}",
                    path, excerpt(*json)));
  }
  return json;
}

// A value as it would be typed on a command line; JSON objects stay JSON (--init-expert-location).
std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Status assign_json(const Option& option, const Json& value, Settings& settings) {
  if (!option.is_list() || !value.is_array()) return assign(option, text_of(value), settings);
  for (const Json& element : value) {
    if (Status done = assign(option, text_of(element), settings); !done) return done;
  }
  return ok_status();
}

Error unknown_key(const std::string& path, std::string_view key) {
  std::vector<std::string_view> names;
  for (const Option& option : all_options()) names.push_back(option.name);
  return invalid_argument(
      fmt::format("--config {}: no option is called '{}'{}", path, key, did_you_mean(key, names)));
}

}  // namespace

Result<std::vector<std::string>> apply_config_file(const std::string& path,
                                                   unsigned command,
                                                   const std::set<std::string_view>& given,
                                                   Settings& settings) {
  const Result<Json> json = read_json_object(path);
  if (!json) return json.error();
  std::vector<std::string> of_other_commands;
  for (const auto& [key, value] : json->items()) {
    const size_t name_at = key.find_first_not_of('-');
    const std::string name = name_at == key.npos ? key : key.substr(name_at);
    const Option* option = find_option(name);
    if (!option || option->name == "config") return unknown_key(path, name);
    if (!(option->commands & command)) {
      of_other_commands.push_back(name);
    } else if (!given.contains(option->name)) {
      const Status done = assign_json(*option, value, settings);
      if (!done) {
        return invalid_argument(fmt::format("--config {}: {}", path, done.error().message));
      }
    }
  }
  return of_other_commands;
}

}  // namespace plimsoll
