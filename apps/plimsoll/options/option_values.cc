// Options by name, and their values as text.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>

#include "options/options.h"
#include "shared/suggest.h"

namespace plimsoll {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

Error bad_value(const Option& option, std::string_view text, std::string_view expected) {
  const std::string_view dashes = option.positional ? "" : "--";
  return invalid_argument(
      fmt::format("{}{} got '{}'; it takes {}", dashes, option.name, text, expected));
}

std::string range_of(const Option& option, std::string_view kind) {
  if (option.max == kUnbounded) return fmt::format("{} of at least {}", kind, option.min);
  return fmt::format("{} from {} to {}", kind, option.min, option.max);
}

template <typename Number>
Status assign_number(const Option& option,
                     std::string_view text,
                     std::string_view kind,
                     Number* member) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  const double size = static_cast<double>(value);
  // A comparison with NaN is false, so NaN is refused too.
  if (!whole || !(size >= option.min && size <= option.max)) {
    return bad_value(option, text, range_of(option, kind));
  }
  *member = value;
  return ok_status();
}

Status assign_switch(const Option& option, std::string_view text, bool* member) {
  if (text != "true" && text != "false") return bad_value(option, text, "true or false");
  *member = text == "true";
  return ok_status();
}

Status check_choice(const Option& option, std::string_view text) {
  for (const std::string_view allowed : option.choices) {
    if (text == allowed) return ok_status();
  }
  return bad_value(option, text,
                   fmt::format("one of: {}{}", fmt::join(option.choices, ", "),
                               did_you_mean(text, option.choices)));
}

Status assign_text(const Option& option, std::string_view text, std::string* member) {
  if (!option.choices.empty()) {
    if (Status known = check_choice(option, text); !known) return known;
  }
  *member = text;
  return ok_status();
}

bool same_name(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const char left = a[i] == '_' ? '-' : a[i];
    const char right = b[i] == '_' ? '-' : b[i];
    if (left != right) return false;
  }
  return true;
}

}  // namespace

bool Option::is_list() const {
  Settings scratch;
  return std::holds_alternative<std::vector<std::string>*>(field(scratch));
}

std::vector<const Option*> options_of(unsigned command) {
  std::vector<const Option*> options;
  for (const Option& option : all_options()) {
    if (option.commands & command) options.push_back(&option);
  }
  return options;
}

const Option* find_option(std::string_view name) {
  for (const Option& option : all_options()) {
    if (same_name(option.name, name)) return &option;
    if (!option.alias.empty() && same_name(option.alias, name)) return &option;
  }
  return nullptr;
}

std::string as_flag(std::string_view name) {
  return fmt::format("{}{}", name.size() == 1 ? "-" : "--", name);
}

Status assign(const Option& option, std::string_view text, Settings& settings) {
  const Overloaded into = {
      [&](bool* member) { return assign_switch(option, text, member); },
      [&](int* member) { return assign_number(option, text, "a whole number", member); },
      [&](int64_t* member) { return assign_number(option, text, "a whole number", member); },
      [&](double* member) { return assign_number(option, text, "a number", member); },
      [&](std::string* member) { return assign_text(option, text, member); },
      [&](std::vector<std::string>* member) {
        return assign_text(option, text, &member->emplace_back());
      },
  };
  return std::visit(into, option.field(settings));
}

std::vector<std::string> values_of(const Option& option, const Settings& settings) {
  using Texts = std::vector<std::string>;
  const Overloaded as_text = {
      [](const bool* member) { return Texts{*member ? "true" : "false"}; },
      [](const std::string* member) { return Texts{*member}; },
      [](const std::vector<std::string>* member) { return *member; },
      [](const auto* number) { return Texts{fmt::format("{}", *number)}; },
  };
  Settings copy = settings;  // the table's accessors are for writing
  return std::visit(as_text, option.field(copy));
}

}  // namespace plimsoll
