#include "record/formats/json_text.h"

#include <string>
#include <vector>

namespace plimsoll {
namespace {

using nlohmann::json;

// Builds the value as the parser reads it, in linear time, and stops at the first thing that is
// refused. The library's own parser with a callback looks at all elder siblings of each value.
class Builder final : public nlohmann::json_sax<json> {
 public:
  explicit Builder(size_t max_nodes) : num_left_(max_nodes) {}

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return add(value) != nullptr;
  }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }  // not in text
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    const auto [at, is_new] = open_.back()->get_ref<json::object_t&>().emplace(name, nullptr);
    if (!is_new) return refuse("has the key \"" + name.substr(0, 80) + "\" twice");
    next_ = &at->second;
    return true;
  }
  bool parse_error(std::size_t at, const std::string&, const json::exception& error) override {
    constexpr int kOutOfRange = 406;
    return refuse(error.id == kOutOfRange
                      ? "is not JSON that can be held: a number is out of range"
                      : "is not JSON: bad syntax at byte " + std::to_string(at));
  }

  json root;
  std::string refusal;

 private:
  bool refuse(const std::string& why) {
    if (refusal.empty()) refusal = why;
    return false;
  }
  template <typename Value>
  json* add(Value&& value) {
    if (num_left_ == 0) {
      refuse("holds more JSON values than are taken at once");
      return nullptr;
    }
    --num_left_;
    if (open_.empty()) return &(root = json(std::forward<Value>(value)));
    if (open_.back()->is_object()) return &(*next_ = json(std::forward<Value>(value)));
    auto& list = open_.back()->get_ref<json::array_t&>();
    return &list.emplace_back(std::forward<Value>(value));
  }
  bool open(json value) {
    if (open_.size() >= limits::kJsonDepth) {
      return refuse("nests JSON more than " + std::to_string(limits::kJsonDepth) + " levels deep");
    }
    json* opened = add(std::move(value));
    if (opened == nullptr) return false;
    open_.push_back(opened);
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  size_t num_left_;
  std::vector<json*> open_;  // a list grows only while it is the last of these
  json* next_ = nullptr;     // of the object that is open: where its key's value goes
};

}  // namespace

Result<json> parse_json(std::string_view text, size_t max_nodes) {
  // The parser takes NUL for the end of the text.
  if (const size_t nul = text.find('\0'); nul != text.npos) {
    return corrupt_file("is not JSON: bad syntax at byte " + std::to_string(nul + 1));
  }
  Builder builder(max_nodes);
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return corrupt_file(builder.refusal);
  }
  return std::move(builder.root);
}

const json& member(const json& value, std::string_view name) {
  static const json kNone;
  const auto found = value.find(name);
  return found == value.end() ? kNone : *found;
}

std::string text_member(const json& value, std::string_view name) {
  const json& found = member(value, name);
  return found.is_string() ? found.get<std::string>() : "";
}

int64_t integer_member(const json& value, std::string_view name, int64_t otherwise) {
  const json& found = member(value, name);
  if (!found.is_number_integer()) return otherwise;
  if (found.is_number_unsigned() && found.get<uint64_t>() > INT64_MAX) return otherwise;
  return found.get<int64_t>();
}

std::string excerpt(const json& value) {
  constexpr bool kAsciiOnly = true;  // so that no character is cut in half
  return value.dump(-1, ' ', kAsciiOnly).substr(0, 120);
}

}  // namespace plimsoll
