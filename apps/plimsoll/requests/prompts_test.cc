#include "requests/prompts.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace plimsoll {
namespace {

using Prompts = std::vector<std::string>;

TEST(SplitPrompts, SeparatesAtLinesOfOnePercentSign) {
  EXPECT_EQ(split_prompts("one"), Prompts{"one"});
  EXPECT_EQ(split_prompts("one\n"), Prompts{"one"});
  EXPECT_EQ(split_prompts("one\n%\ntwo\nlines\n"), (Prompts{"one", "two\nlines"}));
  EXPECT_EQ(split_prompts("%\none\n%\n%\ntwo\n%"), (Prompts{"one", "two"}));
  EXPECT_EQ(split_prompts("100%\n %\n%d\n"), Prompts{"100%\n %\n%d"});
  EXPECT_EQ(split_prompts("one\n\n"), Prompts{"one\n"});  // only the last line end is the file's
  EXPECT_EQ(split_prompts(""), Prompts{});
  EXPECT_EQ(split_prompts("\n%\n"), Prompts{});
}

TEST(ReadPrompts, TakesFilesAndFoldersInOrder) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "prompts";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  std::ofstream(folder / "b.txt") << "third\n";
  std::ofstream(folder / "a.txt") << "first\n%\nsecond\n";
  std::ofstream(folder / "notes.md") << "not a prompt\n";
  const auto prompts = read_prompts({folder, folder / "b.txt"});
  ASSERT_TRUE(prompts) << prompts.error().message;
  EXPECT_EQ(*prompts, (Prompts{"first", "second", "third", "third"}));
}

TEST(ReadPrompts, RefusesWhatHoldsNone) {
  EXPECT_EQ(read_prompts({"/nowhere.txt"}).error().code, ErrorCode::kIo);
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "no-prompts";
  std::filesystem::create_directory(folder);
  EXPECT_EQ(read_prompts({folder}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace plimsoll
