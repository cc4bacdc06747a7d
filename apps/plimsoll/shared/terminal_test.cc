#include "shared/terminal.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(TableText, AlignsNumbersRightAndWordsLeft) {
  EXPECT_EQ(table_text({{"name", "count", "note"}, {"a", "7", "short"}, {"bcdef", "1000", "x"}}),
            "name   count  note\n"
            "a          7  short\n"
            "bcdef   1000  x\n");
}

TEST(TableText, CountsCharactersNotBytes) {
  EXPECT_EQ(table_text({{"a", "b"}, {"naïve", "1"}, {"plain", "2"}}),
            "a      b\n"
            "naïve  1\n"
            "plain  2\n");
}

TEST(ProgressLine, FitsTheTerminal) {
  EXPECT_EQ(progress_line("recording", 1, 4, 80), "recording [######..................] 25 %");
  EXPECT_EQ(progress_line("a label that is long", 4, 4, 40),
            "a labe [########################] 100 %");
  EXPECT_EQ(progress_line("label", 0, 4, 10), " [........................] 0 %");
}

}  // namespace
}  // namespace plimsoll
