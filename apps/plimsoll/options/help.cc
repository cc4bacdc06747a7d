#include "options/help.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace plimsoll {
namespace {

constexpr size_t kHelpColumn = 6;
constexpr size_t kHelpWidth = 88;

std::string flag_text(const Option& option) {
  if (option.positional) return std::string(option.value_name);
  std::string text = fmt::format("--{}", option.name);
  if (!option.choices.empty()) return text + fmt::format(" {{{}}}", fmt::join(option.choices, ","));
  return option.is_switch() ? text : text + fmt::format(" {}", option.value_name);
}

// What the option is when nobody says anything; empty where that goes without saying.
std::string default_text(const Option& option) {
  const std::vector<std::string> values = values_of(option, Settings{});
  const bool telling = values.size() == 1 && !values[0].empty() && !option.is_switch();
  return telling ? values[0] : "";
}

std::string note_text(const Option& option, unsigned command) {
  std::string note(option.help);
  if (option.required_by & command) return note + " Required.";
  if (const std::string value = default_text(option); !value.empty()) {
    note += fmt::format(" [default: {}]", value);
  }
  if (!option.alias.empty()) note += fmt::format(" [also: {}]", as_flag(option.alias));
  return note;
}

// `text` in lines of at most kHelpWidth columns, each indented.
std::string wrapped(std::string_view text) {
  std::string lines;
  std::string line;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    if (!line.empty() && kHelpColumn + line.size() + 1 + word.size() > kHelpWidth) {
      lines += fmt::format("{:{}}{}\n", "", kHelpColumn, line);
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += word;
  }
  return lines + fmt::format("{:{}}{}\n", "", kHelpColumn, line);
}

std::string commands_using(const Option& option) {
  std::vector<std::string_view> names;
  for (const Command& command : all_commands()) {
    if (option.commands & command.id) names.push_back(command.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

// A cell of a Markdown table: a bar inside it would end it.
std::string cell(std::string text) {
  for (size_t at = text.find('|'); at != text.npos; at = text.find('|', at + 2)) {
    text.insert(at, "\\");
  }
  return text;
}

}  // namespace

std::string program_help() {
  std::string text =
      "Plimsoll serves mixture-of-experts models with expert parallelism, and keeps every rank "
      "level.\n\nExamples:\n";
  for (const Command& command : all_commands()) {
    text += fmt::format("  {}\n", command.examples.front());
  }
  text += "\nSubcommands:\n";
  for (const Command& command : all_commands()) {
    text += fmt::format("  {:15}{}\n", command.name, command.summary);
  }
  return text +
         "\n`plimsoll SUBCOMMAND --help` shows its flags; `plimsoll --version` the version.\n"
         "Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 wrong "
         "usage.\n";
}

std::string command_help(const Command& command) {
  std::string text = fmt::format("{}\n\nExamples:\n", command.summary);
  for (const std::string_view example : command.examples) text += fmt::format("  {}\n", example);
  std::string_view section;
  for (const Option* option : options_of(command.id)) {
    if (option->section != section) {
      section = option->section;
      text += fmt::format("\n{}:\n", section);
    }
    text += fmt::format("  {}\n{}", flag_text(*option), wrapped(note_text(*option, command.id)));
  }
  return text;
}

std::string options_document() {
  std::string text =
      "# Options\n\n"
      "Every option can be a flag or a key of the JSON object that `--config` names, with the same "
      "spelling;\nthe command line wins. Options of expert parallelism are spelled and mean what "
      "they do in SGLang.\nThis page is made from the options table, and a test keeps it so.\n";
  std::string_view section;
  for (const Option& option : all_options()) {
    if (option.section != section) {
      section = option.section;
      text += fmt::format(
          "\n## {}\n\n| option | default | used by | meaning |\n| --- | --- | --- | --- |\n",
          section);
    }
    std::string help(option.help);
    if (!option.alias.empty()) help += fmt::format(" Also: `{}`.", as_flag(option.alias));
    const std::string value = default_text(option);
    text += fmt::format("| `{}` | {} | {} | {} |\n", cell(flag_text(option)),
                        value.empty() ? "" : "`" + value + "`", commands_using(option), cell(help));
  }
  return text;
}

}  // namespace plimsoll
