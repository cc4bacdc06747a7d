#include "options/help.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

namespace plimsoll {
namespace {

// Run with PLIMSOLL_UPDATE_DOCS=1 to write the page anew.
TEST(OptionsDocument, IsWhatTheRepositoryHolds) {
  const std::string path = PLIMSOLL_SOURCE_DIR "/docs/options.md";
  if (std::getenv("PLIMSOLL_UPDATE_DOCS")) std::ofstream(path) << options_document();
  std::ostringstream stored;
  stored << std::ifstream(path).rdbuf();
  EXPECT_TRUE(stored.str() == options_document())
      << "docs/options.md is out of date: run this test with PLIMSOLL_UPDATE_DOCS=1";
}

TEST(OptionsTable, NamesAreUniqueAndUsedSomewhere) {
  std::set<std::string_view> names;
  for (const Option& option : all_options()) {
    EXPECT_TRUE(names.insert(option.name).second) << option.name;
    if (!option.alias.empty()) {
      EXPECT_TRUE(names.insert(option.alias).second) << option.alias;
    }
    EXPECT_NE(option.commands, 0u) << option.name;
    EXPECT_EQ(option.required_by & ~option.commands, 0u) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
    EXPECT_LE(option.min, option.max) << option.name;
  }
}

TEST(OptionsTable, EveryDefaultIsAValueTheOptionTakes) {
  for (const Option& option : all_options()) {
    for (const std::string& value : values_of(option, Settings{})) {
      if (value.empty()) continue;  // not given
      Settings settings;
      const Status done = assign(option, value, settings);
      EXPECT_TRUE(done) << done.error().message;
    }
  }
}

TEST(Help, LeadsWithExamplesAndShowsEveryFlag) {
  for (const Command& command : all_commands()) {
    const std::string help = command_help(command);
    const size_t examples_at = help.find("Examples:");
    ASSERT_NE(examples_at, help.npos);
    for (const Option* option : options_of(command.id)) {
      if (option->positional) continue;
      const size_t flag_at = help.find("\n  --" + std::string(option->name));
      ASSERT_NE(flag_at, help.npos) << option->name;
      EXPECT_LT(examples_at, flag_at);
    }
    EXPECT_NE(program_help().find(command.name), std::string::npos);
  }
}

}  // namespace
}  // namespace plimsoll
