#include "model/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/regex_splitter.h"
#include "model/tokenizer/utf8.h"

namespace plimsoll {
namespace {

using nlohmann::json;
const std::string kSource = PLIMSOLL_SOURCE_DIR;

const Tokenizer& demo_tokenizer() {
  static const Result<Tokenizer> tokenizer =
      Tokenizer::load(kSource + "/demo/model/tokenizer.json");
  EXPECT_TRUE(tokenizer.ok());
  return *tokenizer;
}

TEST(Tokenizer, AgreesWithHuggingFaceOnEveryVector) {
  const json vectors = json::parse(std::ifstream(kSource + "/testdata/tokenizer_vectors.json"));
  ASSERT_GT(vectors.size(), 10u);
  for (const json& vector : vectors) {
    const auto ids = demo_tokenizer().encode(vector["text"].get<std::string>());
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, vector["ids"].get<std::vector<int32_t>>()) << vector["text"];
    EXPECT_EQ(demo_tokenizer().decode(*ids), vector["decoded"].get<std::string>());
  }
}

TEST(Tokenizer, StreamsWholeCharactersOnly) {
  const std::string text = "naïve 😀 中文 — done";
  const auto ids = demo_tokenizer().encode(text);
  StreamDecoder decoder(demo_tokenizer());
  std::string all;
  for (int32_t id : *ids) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(find_invalid_utf8(part), std::string::npos);
    all += part;
  }
  EXPECT_EQ(all + decoder.finish(), text);

  const auto half = demo_tokenizer().encode("😀");
  StreamDecoder cut(demo_tokenizer());
  EXPECT_EQ(cut.push(half->front()), "");
  EXPECT_EQ(cut.finish(), kReplacementCharacter);
}

TEST(Tokenizer, TextOfMarkersCanBeKeptText) {
  const std::string text = "<｜User｜>";
  EXPECT_EQ(*demo_tokenizer().encode(text),
            std::vector<int32_t>{demo_tokenizer().added_token(text)});
  const auto plain = demo_tokenizer().encode_plain(text);
  EXPECT_GT(plain->size(), 3u);
  EXPECT_EQ(demo_tokenizer().decode(*plain), text);
  EXPECT_EQ(demo_tokenizer().added_token("<｜Nobody｜>"), -1);
}

TEST(Tokenizer, ReadsMergesInTheOlderSpelling) {
  json older = json::parse(std::ifstream(kSource + "/demo/model/tokenizer.json"));
  for (json& merge : older["model"]["merges"]) {
    if (merge.is_array()) {
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    } else {
      const auto text = merge.get<std::string>();
      merge = {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
    }
  }
  const auto tokenizer = Tokenizer::parse(older.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const std::string text = "In the beginning God created the heaven and the earth.";
  EXPECT_EQ(*tokenizer->encode(text), *demo_tokenizer().encode(text));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto ids = demo_tokenizer().encode("ab\xFF");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().message, "the text is not valid UTF-8 at byte 2");
}

TEST(Tokenizer, CopesWithAnEndlessWord) {
  const std::string word(200'000, 'x');
  const auto ids = demo_tokenizer().encode(word);
  ASSERT_TRUE(ids.ok()) << ids.error().message;
  EXPECT_EQ(demo_tokenizer().decode(*ids), word);
}

TEST(Tokenizer, NamesWhatItCannotRead) {
  std::ifstream file(kSource + "/demo/model/tokenizer.json");
  const json good = json::parse(file);
  const auto error_with = [&](const char* pointer, json value) {
    json changed = good;
    changed[json::json_pointer(pointer)] = std::move(value);
    const auto tokenizer = Tokenizer::parse(changed.dump());
    return tokenizer.ok() ? std::string("accepted") : tokenizer.error().message;
  };
  EXPECT_EQ(error_with("/model/type", "Unigram"), "model type is \"Unigram\", expected \"BPE\"");
  EXPECT_NE(error_with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(").find("fails before"),
            std::string::npos);
  EXPECT_NE(error_with("/model/vocab/!", 1 << 30).find("has id"), std::string::npos);
  EXPECT_NE(error_with("/model/vocab/!", good["model"]["vocab"]["#"]).find("two entries"),
            std::string::npos);
  EXPECT_NE(error_with("/model/merges/3", "a").find("merge 3"), std::string::npos);
  EXPECT_NE(error_with("/added_tokens/0/id", -4).find("no id"), std::string::npos);
  EXPECT_NE(
      error_with("/pre_tokenizer/pretokenizers/0/pattern/Regex", R"(\C)").find("fails before"),
      std::string::npos);
  EXPECT_NE(error_with("/pre_tokenizer/pretokenizers/3/use_regex", true).find("ends in"),
            std::string::npos);
  EXPECT_NE(error_with("/model/byte_fallback", true).find("byte_fallback"), std::string::npos);
  EXPECT_NE(error_with("/normalizer", {{"type", "NFC"}}).find("normalizer is"), std::string::npos);
  EXPECT_EQ(error_with("/normalizer", {{"type", "Sequence"}, {"normalizers", json::array()}}),
            "accepted");
  EXPECT_FALSE(Tokenizer::parse("{").ok());
}

TEST(RegexSplitter, WhiteSpaceIsUnicodes) {
  const auto splitter = RegexSplitter::compile(R"(\s+|[^\s\\]+)");
  ASSERT_TRUE(splitter.ok());
  std::vector<std::string_view> pieces;
  ASSERT_TRUE(splitter->split("a\u180E \u3000b\\", pieces).ok());
  EXPECT_EQ(pieces, (std::vector<std::string_view>{"a\u180E", " \u3000", "b", "\\"}));
}

TEST(RegexSplitter, GivesUpOnEndlessBacktracking) {
  const auto splitter = RegexSplitter::compile("(a+)+$");
  std::vector<std::string_view> pieces;
  const Status status = splitter->split(std::string(40, 'a') + "!", pieces);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("limit"), std::string::npos) << status.error().message;
}

TEST(AddedTokens, FindTheLongest) {
  const AddedTokens tokens({{"<a", 1}, {"<", 0}, {"<abc>", 3}, {"<ab", 2}, {"<b", 4}});
  const auto id_at_start = [&](std::string_view text) {
    const AddedToken* token = tokens.at_start_of(text);
    return token == nullptr ? -1 : token->id;
  };
  EXPECT_EQ(id_at_start("<abc>d"), 3);
  EXPECT_EQ(id_at_start("<abc"), 2);
  EXPECT_EQ(id_at_start("<azz"), 1);
  EXPECT_EQ(id_at_start("<c"), 0);
  EXPECT_EQ(id_at_start("a<"), -1);
  EXPECT_EQ(id_at_start(""), -1);
  EXPECT_EQ(tokens.find("<ab")->id, 2);
  EXPECT_EQ(tokens.find("<abc"), nullptr);
  EXPECT_EQ(AddedTokens().at_start_of("<"), nullptr);
}

// Merges that the textbook does: scan for the lowest rank, leftmost first, until none applies.
std::vector<int32_t> slow_bpe(std::string_view piece,
                              const std::map<std::pair<int32_t, int32_t>, BpeMerge>& merges) {
  std::vector<int32_t> tokens(piece.begin(), piece.end());
  while (true) {
    const BpeMerge* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto merge = merges.find({tokens[i], tokens[i + 1]});
      if (merge == merges.end() || (best && best->rank <= merge->second.rank)) continue;
      best = &merge->second;
      at = i;
    }
    if (best == nullptr) return tokens;
    tokens[at] = best->merged;
    tokens.erase(tokens.begin() + at + 1);
  }
}

TEST(Bpe, MergesInTheTextbooksOrder) {
  uint64_t random = 12345;
  const auto roll = [&](int n) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((random >> 33) % n);
  };
  for (int round = 0; round < 200; ++round) {
    Bpe bpe;
    for (int b = 0; b < 256; ++b) bpe.byte_tokens[b] = b;
    std::map<std::pair<int32_t, int32_t>, BpeMerge> merges;
    int32_t next_token = 256;
    for (int32_t rank = 0; rank < 12; ++rank) {
      const auto any = [&] { return roll(2) ? 'a' + roll(3) : 256 + roll(next_token - 255); };
      const std::pair<int32_t, int32_t> pair = {any(), any()};
      if (merges.contains(pair)) continue;
      merges[pair] = {rank, next_token};
      bpe.add_merge(pair.first, pair.second, {rank, next_token++});
    }
    std::string piece;
    for (int i = roll(40); i > 0; --i) piece += static_cast<char>('a' + roll(3));
    std::vector<int32_t> tokens;
    bpe.encode(piece, tokens);
    EXPECT_EQ(tokens, slow_bpe(piece, merges)) << piece;
  }
}

TEST(Utf8, TellsValidInvalidAndIncompleteApart) {
  EXPECT_EQ(find_invalid_utf8("aé€😀"), std::string::npos);
  for (const char* bad : {"\x80", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x9F\xBF"}) {
    EXPECT_EQ(next_utf8(bad).kind, Utf8Character::kInvalid);
  }
  EXPECT_EQ(next_utf8("\xF0\x9F\x98").kind, Utf8Character::kIncomplete);
  std::string bytes = "a\xE2\x82z\xE2\x82", text;
  take_utf8(bytes, text);
  EXPECT_EQ(text, "a\xEF\xBF\xBDz");
  EXPECT_EQ(bytes, "\xE2\x82");
}

}  // namespace
}  // namespace plimsoll
