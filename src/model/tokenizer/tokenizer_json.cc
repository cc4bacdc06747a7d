#include "model/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "model/tokenizer/utf8.h"
#include "record/formats/json_text.h"

namespace plimsoll {
namespace {

using nlohmann::json;

// Ids may have gaps, but none so wide that a table of them dwarfs the file.
constexpr size_t kMaxUnusedIds = 1 << 16;

// GPT-2's printable stand-ins for bytes: itself where that is a visible Latin-1 character,
// otherwise the next one from U+0100 on.
std::array<int, 512> make_byte_of_code_point() {
  std::array<int, 512> bytes;
  bytes.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    bytes[visible ? byte : next++] = byte;
  }
  return bytes;
}

// The bytes that a vocabulary entry stands for; nothing if it uses other characters.
std::optional<std::string> to_bytes(std::string_view entry) {
  static const std::array<int, 512> kByteOf = make_byte_of_code_point();
  std::string bytes;
  while (!entry.empty()) {
    const Utf8Character next = next_utf8(entry);
    if (next.kind != Utf8Character::kValid || next.code_point >= kByteOf.size() ||
        kByteOf[next.code_point] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(kByteOf[next.code_point]);
    entry.remove_prefix(next.num_bytes);
  }
  return bytes;
}

bool is_true(const json& value) {
  return value.is_boolean() && value.get<bool>();
}

// An id, or -1.
int32_t to_id(const json& value, size_t num_tokens) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= num_tokens + kMaxUnusedIds) return -1;
  return value.get<int32_t>();
}

void set_token(TokenizerParts& parts, int32_t id, std::string bytes) {
  if (static_cast<size_t>(id) >= parts.bytes_of.size()) parts.bytes_of.resize(id + 1);
  parts.bytes_of[id] = std::move(bytes);
}

// An empty sequence of normalizers is a usual way to write none.
bool is_nothing(const json& normalizer) {
  const json& steps = member(normalizer, "normalizers");
  return normalizer.is_null() || (steps.is_array() && steps.empty());
}

Status check_kind(const json& root) {
  const json& model = member(root, "model");
  if (member(model, "type") != "BPE") {
    return unsupported("model type is " + excerpt(member(model, "type")) + ", expected \"BPE\"");
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = member(model, key);
    if (!value.is_null() && value != "") {
      return unsupported(std::string("the model's ") + key + " is " + excerpt(value) +
                         ", expected null");
    }
  }
  if (is_true(member(model, "byte_fallback"))) {
    return unsupported("the model's byte_fallback is true, expected byte-level BPE without it");
  }
  if (!is_nothing(member(root, "normalizer"))) {
    return unsupported("normalizer is " + excerpt(member(root, "normalizer")) + ", expected null");
  }
  if (member(member(root, "decoder"), "type") != "ByteLevel") {
    return unsupported("decoder is " + excerpt(member(root, "decoder")) + ", expected ByteLevel");
  }
  return ok_status();
}

Status read_pre_tokenizer(const json& description, TokenizerParts& parts) {
  const json& steps = member(description, "pretokenizers");
  if (member(description, "type") != "Sequence" || !steps.is_array() || steps.empty()) {
    return unsupported("pre_tokenizer is " + excerpt(description) +
                       ", expected a Sequence of Splits and a ByteLevel");
  }
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    const json& step = steps[i];
    const json& pattern = member(member(step, "pattern"), "Regex");
    if (member(step, "type") != "Split" || !pattern.is_string() ||
        member(step, "behavior") != "Isolated" || is_true(member(step, "invert"))) {
      return unsupported("pre_tokenizer has the step " + excerpt(step) +
                         ", expected an Isolated Split by a Regex");
    }
    Result<RegexSplitter> split = RegexSplitter::compile(pattern.get<std::string>());
    if (!split.ok()) return split.error();
    parts.splits.push_back(std::move(*split));
  }
  const json& last = steps.back();
  // use_regex is true where it is not written.
  if (member(last, "type") != "ByteLevel" || member(last, "use_regex") != false ||
      member(last, "add_prefix_space") != false) {
    return unsupported("pre_tokenizer ends in " + excerpt(last) +
                       ", expected a ByteLevel with use_regex and add_prefix_space false");
  }
  return ok_status();
}

Status read_vocab(const json& vocab, TokenizerParts& parts) {
  if (!vocab.is_object()) return corrupt_file("the model's vocab is not an object");
  for (const auto& [entry, value] : vocab.items()) {
    const int32_t id = to_id(value, vocab.size());
    if (id < 0) {
      return corrupt_file("vocab entry " + excerpt(entry) + " has id " + excerpt(value) +
                          ", expected one of about " + std::to_string(vocab.size()) + " ids");
    }
    // Entries in other characters are added tokens; read_added_tokens gives their text.
    const std::optional<std::string> bytes = to_bytes(entry);
    if (!bytes) continue;
    if (static_cast<size_t>(id) < parts.bytes_of.size() && !parts.bytes_of[id].empty()) {
      return corrupt_file("vocab gives id " + std::to_string(id) + " to two entries");
    }
    set_token(parts, id, *bytes);
    parts.id_of.emplace(*bytes, id);
    if (bytes->size() == 1) parts.bpe.byte_tokens[static_cast<uint8_t>(bytes->front())] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (parts.bpe.byte_tokens[byte] < 0) {
      return unsupported("vocab has no token for byte " + std::to_string(byte) +
                         ", so it is not byte-level BPE");
    }
  }
  return ok_status();
}

// ["left", "right"], or "left right" as older files have it.
std::pair<std::string, std::string> to_pair(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  const std::string text = merge.is_string() ? merge.get<std::string>() : "";
  const size_t space = text.find(' ');
  if (space == std::string::npos) return {};
  return {text.substr(0, space), text.substr(space + 1)};
}

Status read_merges(const json& merges, TokenizerParts& parts) {
  if (!merges.is_array()) return corrupt_file("the model's merges are not an array");
  const auto find = [&](const std::string& entry) {
    const std::optional<std::string> bytes = to_bytes(entry);
    const auto found = bytes ? parts.id_of.find(*bytes) : parts.id_of.end();
    return found == parts.id_of.end() ? -1 : found->second;
  };
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = to_pair(merges[rank]);
    const int32_t left_id = find(left);
    const int32_t right_id = find(right);
    const int32_t merged_id = find(left + right);
    if (left_id < 0 || right_id < 0 || merged_id < 0) {
      return corrupt_file("merge " + std::to_string(rank) + " is " + excerpt(merges[rank]) +
                          ", expected two vocab entries whose join is one too");
    }
    parts.bpe.add_merge(left_id, right_id, {static_cast<int32_t>(rank), merged_id});
  }
  return ok_status();
}

Status read_added_tokens(const json& tokens, TokenizerParts& parts) {
  if (tokens.is_null()) return ok_status();
  if (!tokens.is_array()) return corrupt_file("added_tokens is not an array");
  std::vector<AddedToken> added;
  for (const json& token : tokens) {
    const json& content = member(token, "content");
    const int32_t id = to_id(member(token, "id"), parts.bytes_of.size() + tokens.size());
    if (!content.is_string() || content == "" || id < 0) {
      return corrupt_file("added token " + excerpt(token) +
                          " has no content, or no id near those of the vocab");
    }
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
      if (is_true(member(token, flag))) {
        return unsupported("added token " + excerpt(token) + " sets " + flag);
      }
    }
    added.push_back({content.get<std::string>(), id});
  }
  for (const AddedToken& token : added) set_token(parts, token.id, token.text);
  parts.added = AddedTokens(std::move(added));
  return ok_status();
}

}  // namespace

Result<TokenizerParts> read_tokenizer_json(std::string_view text) {
  const Result<json> root = parse_json(text);
  if (!root.ok()) return root.error();
  if (Status status = check_kind(*root); !status.ok()) return status.error();
  const json& model = member(*root, "model");
  TokenizerParts parts;
  parts.whole_pieces_first = is_true(member(model, "ignore_merges"));
  Status status = read_pre_tokenizer(member(*root, "pre_tokenizer"), parts);
  if (status.ok()) status = read_vocab(member(model, "vocab"), parts);
  if (status.ok()) status = read_merges(member(model, "merges"), parts);
  if (status.ok()) status = read_added_tokens(member(*root, "added_tokens"), parts);
  if (!status.ok()) return status.error();
  return parts;
}

}  // namespace plimsoll
