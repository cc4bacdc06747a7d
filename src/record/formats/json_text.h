// JSON that comes from outside, as files, options and requests, and JSON as text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "plimsoll/result.h"
#include "record/formats/limits.h"

namespace plimsoll {

// Fails on bad syntax, on an object that has a key twice, on nesting so deep that walking the
// value could exhaust the stack, and on more than `max_nodes` values. Linear time. The message is a
// predicate: "is not JSON: ...".
Result<nlohmann::json> parse_json(std::string_view text,
                                  size_t max_nodes = limits::kJsonNodesOfFile);

// The member of that name; null if there is none or `value` is no object.
const nlohmann::json& member(const nlohmann::json& value, std::string_view name);

// The member of that name where it is a string; empty otherwise.
std::string text_member(const nlohmann::json& value, std::string_view name);
// Where it is an integer that fits; `otherwise` if not.
int64_t integer_member(const nlohmann::json& value, std::string_view name, int64_t otherwise);

// The value as text, cut to a length that fits an error message.
std::string excerpt(const nlohmann::json& value);

// The value as UTF-8, or as ASCII, on one line unless `indent` is 0 or more. Bytes in it that are
// no UTF-8 become U+FFFD.
template <typename Json>
std::string json_text(const Json& value, int indent = -1, bool ascii = false) {
  return value.dump(indent, ' ', ascii, Json::error_handler_t::replace);
}

}  // namespace plimsoll
