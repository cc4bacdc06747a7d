#include "record/formats/json_text.h"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

std::string error_of(const std::string& text) {
  const auto parsed = parse_json(text);
  return parsed.ok() ? "none" : parsed.error().message;
}

std::string nested(size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

TEST(JsonText, SaysWhatIsWrong) {
  EXPECT_EQ(error_of(R"({"a": [1, {"a": 2}], "b": {}})"), "none");
  EXPECT_EQ(error_of(R"({"a": 1,})"), "is not JSON: bad syntax at byte 9");
  EXPECT_EQ(error_of(""), "is not JSON: bad syntax at byte 1");
  EXPECT_EQ(error_of("\"\xFF\""), "is not JSON: bad syntax at byte 2");
  EXPECT_EQ(error_of("1e999"), "is not JSON that can be held: a number is out of range");
  EXPECT_EQ(error_of(R"({"x": {"a": 1, "a": 2}})"), "has the key \"a\" twice");
  EXPECT_EQ(error_of(R"({"": 1, "": 2})"), "has the key \"\" twice");
  EXPECT_EQ(error_of(R"([{"a": 1}, {"a": 2}])"), "none");
}

TEST(JsonText, RefusesNestingThatCouldExhaustTheStack) {
  EXPECT_EQ(error_of(nested(64)), "none");
  EXPECT_EQ(error_of(nested(65)), "nests JSON more than 64 levels deep");
  EXPECT_EQ(error_of(nested(1'000'000)), "nests JSON more than 64 levels deep");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"([{"a":)";
  EXPECT_NE(error_of(objects + "1"), "none");
  for (int i = 0; i < 100'000; ++i) objects += (i == 0 ? "1" : "") + std::string("}]");
  EXPECT_EQ(error_of(objects), "nests JSON more than 64 levels deep");
}

// In quadratic time this took minutes.
TEST(JsonText, ReadsAMillionSiblingsAndNoMoreThanItMay) {
  std::string many = "[{}";
  for (int i = 1; i < 1'000'000; ++i) many += ",{}";
  many += "]";
  EXPECT_EQ(error_of(many), "none");
  EXPECT_EQ(parse_json(many, 1'000'000).error().message,
            "holds more JSON values than are taken at once");
  EXPECT_EQ(parse_json("[1,{\"a\":2}]", 4)->dump(), "[1,{\"a\":2}]");
  EXPECT_FALSE(parse_json("[1,{\"a\":2}]", 3).ok());
}

TEST(JsonText, RefusesWhatFollowsTheValue) {
  using namespace std::string_literals;
  EXPECT_EQ(error_of("{}\0"s), "is not JSON: bad syntax at byte 3");
  EXPECT_EQ(error_of("{}\0junk"s), "is not JSON: bad syntax at byte 3");
  EXPECT_NE(error_of("{} {}"), "none");
}

TEST(JsonText, ReadsMembersOfTheWrongTypeAsMissing) {
  const auto value = *parse_json(R"({"role":7,"port":"x","text":"a","big":18446744073709551615})");
  EXPECT_EQ(text_member(value, "role"), "");
  EXPECT_EQ(text_member(value, "text"), "a");
  EXPECT_EQ(integer_member(value, "port", -1), -1);
  EXPECT_EQ(integer_member(value, "big", -1), -1);
  EXPECT_EQ(integer_member(value, "role", -1), 7);
  EXPECT_EQ(integer_member(*parse_json("[]"), "role", -1), -1);
}

TEST(JsonText, ExcerptsAreShort) {
  EXPECT_EQ(excerpt(nlohmann::json{{"a", 1}}), R"({"a":1})");
  EXPECT_EQ(excerpt("é"), R"("\u00e9")");
  EXPECT_EQ(excerpt(std::string(1000, 'x')).size(), 120u);
}

}  // namespace
}  // namespace plimsoll
