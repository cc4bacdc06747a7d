#include "options/command_line.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace plimsoll {
namespace {

Result<Invocation> parse(std::vector<std::string> words) {
  return parse_command_line(words);
}

// The message of the error that parsing must end with.
std::string refusal(const std::vector<std::string>& words) {
  const Result<Invocation> invocation = parse(words);
  if (invocation) return "(accepted)";
  EXPECT_EQ(invocation.error().code, ErrorCode::kInvalidArgument);
  return invocation.error().message;
}

std::string config_file(const std::string& content) {
  const std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) /
      (std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + ".json");
  std::ofstream(path) << content;
  return path;
}

testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != text.npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << part << "' is not in: " << text;
}

TEST(CommandLine, FillsTypedSettings) {
  const auto invocation = parse({"generate", "--model", "dir", "--prompt", "a b", "--prompt=-c",
                                 "--max-tokens", "3", "--temperature", "0.5", "--ep-size=4",
                                 "--deepep-mode", "low_latency", "--enable-deepep-waterfill",
                                 "--json", "--init-expert-location", R"({"a": [[1, 2]]})"});
  ASSERT_TRUE(invocation) << invocation.error().message;
  const Settings& settings = invocation->settings;
  EXPECT_EQ(settings.engine.model_dir, "dir");
  EXPECT_EQ(settings.input.prompts, (std::vector<std::string>{"a b", "-c"}));
  EXPECT_EQ(settings.sampling.max_tokens, 3);
  EXPECT_EQ(settings.sampling.temperature, 0.5);
  EXPECT_EQ(settings.engine.ep_size, 4);
  EXPECT_EQ(settings.engine.deepep_mode, "low_latency");
  EXPECT_TRUE(settings.engine.enable_waterfill);
  EXPECT_TRUE(settings.json);
  EXPECT_EQ(settings.engine.init_expert_location, R"({"a": [[1, 2]]})");
}

TEST(CommandLine, HelpAndVersionNeedNothingElse) {
  EXPECT_EQ(parse({"--help"})->intent, Intent::kHelp);
  EXPECT_EQ(parse({"--version"})->intent, Intent::kVersion);
  for (const auto& words : {std::vector<std::string>{"eval", "--help"},
                            {"help", "eval"},
                            {"eval", "--model", "m", "-h"}}) {
    const auto invocation = parse(words);
    ASSERT_TRUE(invocation);
    EXPECT_EQ(invocation->intent, Intent::kHelp);
    EXPECT_EQ(invocation->command->name, "eval");
  }
}

TEST(CommandLine, SuggestsTheNearest) {
  EXPECT_TRUE(contains(refusal({"genrate"}), "did you mean generate?"));
  EXPECT_TRUE(contains(refusal({"--versoin"}), "did you mean --version?"));
  EXPECT_TRUE(contains(refusal({"eval", "--ep", "2"}), "did you mean --ep-size?"));
  EXPECT_TRUE(contains(refusal({"eval", "--ep-sise", "2"}), "did you mean --ep-size?"));
  EXPECT_TRUE(contains(refusal({"bench", "--waterfill"}), "did you mean --enable-waterfill?"));
  EXPECT_TRUE(
      contains(refusal({"eval", "--deepep-mode", "low-latency"}), "did you mean low_latency?"));
}

TEST(CommandLine, NamesTheSubcommandThatHasTheFlag) {
  EXPECT_TRUE(
      contains(refusal({"generate", "--golden", "f"}), "is a flag of eval, not of generate"));
}

TEST(CommandLine, RefusesValuesOutsideTheirRange) {
  EXPECT_TRUE(contains(refusal({"eval", "--ep-size", "0"}), "from 1 to 1024"));
  EXPECT_TRUE(contains(refusal({"eval", "--ep-size", "eight"}), "got 'eight'"));
  EXPECT_TRUE(contains(refusal({"eval", "--ep-size", "4x"}), "got '4x'"));
  EXPECT_TRUE(contains(refusal({"eval", "--ep-size", "99999999999"}), "a whole number"));
  EXPECT_TRUE(contains(refusal({"generate", "--top-p", "nan"}), "from 0 to 1"));
  EXPECT_TRUE(contains(refusal({"generate", "--max-tokens", "0"}), "at least 1"));
  EXPECT_TRUE(contains(refusal({"generate", "--temperature", "-1"}), "from 0 to 100"));
  EXPECT_TRUE(contains(refusal({"eval", "--model"}), "--model needs a value"));
  EXPECT_TRUE(contains(refusal({"eval", "--model=", "x"}), "--model= needs a value"));
}

TEST(CommandLine, SaysWhatIsMissing) {
  EXPECT_TRUE(contains(refusal({"eval"}), "eval needs --model DIR"));
  EXPECT_TRUE(contains(refusal({"eval", "--model", "m"}), "eval needs --golden F"));
  EXPECT_TRUE(contains(refusal({"inspect"}), "inspect needs file F"));
  EXPECT_TRUE(contains(refusal({"eval", "stray", "--model", "m"}), "'stray' was not expected"));
}

TEST(ConfigFile, FillsWhatTheCommandLineLeavesOpen) {
  const std::string path = config_file(
      R"({"model": "from-file", "ep_size": 4, "--enable-waterfill": true,
          "init-expert-location": {"logical_count": [[1]]}, "eplb-algorithm": "deepseek"})");
  const auto invocation = parse({"generate", "--config", path, "--ep-size", "2"});
  ASSERT_TRUE(invocation) << invocation.error().message;
  const Settings& settings = invocation->settings;
  EXPECT_EQ(settings.engine.model_dir, "from-file");
  EXPECT_EQ(settings.engine.ep_size, 2);
  EXPECT_TRUE(settings.engine.enable_waterfill);
  EXPECT_EQ(settings.engine.init_expert_location, R"({"logical_count":[[1]]})");
  EXPECT_TRUE(invocation->notes.empty());
}

TEST(ConfigFile, SwitchCanBeTakenBack) {
  const std::string path = config_file(R"({"model": "m", "enable-waterfill": true})");
  const auto invocation = parse({"generate", "--config", path, "--enable-waterfill=false"});
  ASSERT_TRUE(invocation) << invocation.error().message;
  EXPECT_FALSE(invocation->settings.engine.enable_waterfill);
}

TEST(ConfigFile, ListsComeFromArrays) {
  const std::string path = config_file(R"({"model": "m", "prompt": ["one", "two"]})");
  const auto invocation = parse({"generate", "--config", path});
  ASSERT_TRUE(invocation) << invocation.error().message;
  EXPECT_EQ(invocation->settings.input.prompts, (std::vector<std::string>{"one", "two"}));
}

TEST(ConfigFile, KeysOfOtherSubcommandsAreNamedNotRefused) {
  const std::string path = config_file(R"({"model": "m", "golden": "g"})");
  const auto invocation = parse({"generate", "--config", path});
  ASSERT_TRUE(invocation) << invocation.error().message;
  ASSERT_EQ(invocation->notes.size(), 1u);
  EXPECT_TRUE(contains(invocation->notes[0], "'golden' is not an option of generate"));
}

TEST(ConfigFile, RefusesWhatItCannotUse) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"ep-sise": 2})", "did you mean ep-size?"},
      {R"({"ep-size": "many"})", "got 'many'"},
      {R"({"ep-size": [2]})", "got '[2]'"},
      {R"({"ep-size": 2.5})", "got '2.5'"},
      {R"({"enable-waterfill": 1})", "true or false"},
      {R"({"config": "other.json"})", "no option is called 'config'"},
  };
  for (const auto& [content, message] : cases) {
    EXPECT_TRUE(contains(refusal({"generate", "--config", config_file(content)}), message));
  }
  for (const std::string content : {"", "{", "[1]", "\xff\xfe"}) {
    const auto invocation = parse({"generate", "--config", config_file(content)});
    ASSERT_FALSE(invocation);
    EXPECT_EQ(invocation.error().code, ErrorCode::kCorruptFile);
  }
  EXPECT_EQ(parse({"generate", "--config", "/nowhere.json"}).error().code, ErrorCode::kIo);
}

TEST(CommandLineOf, PrintsWhatDiffersFromTheDefaults) {
  const auto invocation = parse({"generate", "--model", "my model", "--prompt", "it's", "--ep-size",
                                 "1", "--deepep-mode=normal", "--enable-waterfill"});
  ASSERT_TRUE(invocation);
  EXPECT_EQ(command_line_of(*invocation->command, invocation->settings),
            R"(plimsoll generate --model 'my model' --prompt 'it'\''s' --deepep-mode normal )"
            R"(--enable-waterfill)");
}

}  // namespace
}  // namespace plimsoll
