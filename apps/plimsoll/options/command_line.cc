#include "options/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <set>

#include "options/config_file.h"
#include "shared/suggest.h"

namespace plimsoll {
namespace {

// The flag's bare name: "--ep-size=8" is "ep-size".
std::string_view flag_name(std::string_view word) {
  word.remove_prefix(std::min(word.find_first_not_of('-'), word.size()));
  return word.substr(0, word.find('='));
}

Error no_such_command(std::string_view word) {
  std::vector<std::string_view> names = {"--help", "--version"};
  for (const Command& command : all_commands()) names.push_back(command.name);
  return invalid_argument(fmt::format("'{}' is not a subcommand{} (`plimsoll --help` lists them)",
                                      word, did_you_mean(word, names)));
}

Error flag_of_others(const Option& option, const Command& command) {
  std::vector<std::string_view> users;
  for (const Command& other : all_commands()) {
    if (option.commands & other.id) users.push_back(other.name);
  }
  return invalid_argument(fmt::format("--{} is a flag of {}, not of {}", option.name,
                                      fmt::join(users, ", "), command.name));
}

Error unexpected(std::string_view word, const Command& command) {
  if (word.size() < 2 || word[0] != '-') {
    return invalid_argument(fmt::format(
        "'{}' was not expected; a text with spaces needs quotes, and a flag two dashes", word));
  }
  const std::string_view name = flag_name(word);
  const Option* option = find_option(name);
  if (option && !(option->commands & command.id)) return flag_of_others(*option, command);
  std::vector<std::string_view> names;
  for (const Option* known : options_of(command.id)) {
    if (!known->positional) names.push_back(known->name);
  }
  return invalid_argument(fmt::format("{} has no flag {}{} (`plimsoll {} --help` lists them)",
                                      command.name, word.substr(0, word.find('=')),
                                      did_you_mean(name, names, "--"), command.name));
}

std::string cli11_name(const Option& option) {
  if (option.positional) return std::string(option.name);
  std::string name = fmt::format("--{}", option.name);
  if (!option.alias.empty()) name += "," + as_flag(option.alias);
  return name;
}

// Lets CLI11 take the words apart; what each flag was given is left as text.
struct Words {
  CLI::App app;
  std::vector<std::pair<const Option*, CLI::Option*>> options;
  bool help = false;

  explicit Words(const Command& command) {
    app.set_help_flag();
    app.allow_extras();
    app.add_flag("-h,--help", help);
    for (const Option* option : options_of(command.id)) {
      CLI::Option* parsed = option->is_switch() ? app.add_flag(cli11_name(*option))
                                                : app.add_option(cli11_name(*option))->type_size(1);
      if (option->is_list())
        parsed->take_all()->allow_extra_args(option->takes_many);
      else
        parsed->take_last();
      options.emplace_back(option, parsed);
    }
  }
};

Status parse_words(std::span<const std::string> words, Words& parsed) {
  for (const std::string& word : words) {
    if (word.size() > 2 && word.starts_with("--") && word.back() == '=') {
      return invalid_argument(fmt::format("{} needs a value after the equals sign", word));
    }
  }
  std::vector<std::string> backwards(words.rbegin(),
                                     words.rend());  // CLI11 takes them from the end
  try {
    parsed.app.parse(backwards);
  } catch (const CLI::ArgumentMismatch& mismatch) {
    const std::string_view message = mismatch.what();  // begins with the flag and a colon
    return invalid_argument(fmt::format("{} needs a value", message.substr(0, message.find(':'))));
  } catch (const CLI::ParseError& error) {
    return invalid_argument(error.what());
  }
  return ok_status();
}

Status assign_words(const Words& parsed, Settings& settings, std::set<std::string_view>& given) {
  for (const auto& [option, words] : parsed.options) {
    if (words->count() == 0) continue;
    given.insert(option->name);
    for (const std::string& text : words->reduced_results()) {
      if (Status done = assign(*option, text, settings); !done) return done;
    }
  }
  return ok_status();
}

Status check_required(const Command& command, const Settings& settings) {
  const Settings defaults;
  for (const Option* option : options_of(command.id)) {
    const bool required = option->required_by & command.id;
    if (!required || values_of(*option, settings) != values_of(*option, defaults)) continue;
    const std::string_view dashes = option->positional ? "" : "--";
    return invalid_argument(fmt::format("{} needs {}{} {}; `plimsoll {} --help` shows examples",
                                        command.name, dashes, option->name, option->value_name,
                                        command.name));
  }
  return ok_status();
}

Result<Invocation> parse_command(const Command& command, std::span<const std::string> words) {
  Invocation invocation{.command = &command};
  Words parsed(command);
  if (Status done = parse_words(words, parsed); !done) return done.error();
  if (parsed.help) {
    invocation.intent = Intent::kHelp;
    return invocation;
  }
  const std::vector<std::string> extras = parsed.app.remaining();
  if (!extras.empty()) return unexpected(extras.front(), command);

  Settings& settings = invocation.settings;
  std::set<std::string_view> given;
  if (Status done = assign_words(parsed, settings, given); !done) return done.error();
  if (!settings.config.empty()) {
    const auto unused = apply_config_file(settings.config, command.id, given, settings);
    if (!unused) return unused.error();
    for (const std::string& key : *unused) {
      invocation.notes.push_back(
          fmt::format("{}: '{}' is not an option of {}", settings.config, key, command.name));
    }
  }
  if (Status done = check_required(command, settings); !done) return done.error();
  return invocation;
}

// Quoted where a POSIX shell would otherwise take the text apart.
std::string shell_quoted(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == text.npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

Result<Invocation> parse_command_line(std::span<const std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    return Invocation{.intent = Intent::kHelp};
  }
  if (words[0] == "--version") return Invocation{.intent = Intent::kVersion};
  const bool asks_help = words[0] == "help";
  if (asks_help && words.size() == 1) return Invocation{.intent = Intent::kHelp};
  const std::string& name = words[asks_help ? 1 : 0];
  const Command* command = find_command(name);
  if (!command) return no_such_command(name);
  if (asks_help) return Invocation{.intent = Intent::kHelp, .command = command};
  return parse_command(*command, words.subspan(1));
}

std::string command_line_of(const Command& command, const Settings& settings) {
  const Settings defaults;
  std::string line = fmt::format("plimsoll {}", command.name);
  for (const Option* option : options_of(command.id)) {
    const std::vector<std::string> values = values_of(*option, settings);
    if (option->name == "config" || values == values_of(*option, defaults)) continue;
    for (const std::string& value : values) {
      if (!option->positional) line += fmt::format(" --{}", option->name);
      if (!option->is_switch()) line += " " + (option->is_secret ? "***" : shell_quoted(value));
    }
  }
  return line;
}

}  // namespace plimsoll
