#include "model/tokenizer/tokenizer.h"

#include <limits>
#include <utility>

#include "model/checkpoint/mapped_file.h"
#include "model/tokenizer/utf8.h"

namespace plimsoll {
namespace {

Status check_text(std::string_view text) {
  if (text.size() > std::numeric_limits<int32_t>::max()) {
    return invalid_argument("the text has " + std::to_string(text.size()) +
                            " bytes, expected less than 2 GiB");
  }
  const size_t bad = find_invalid_utf8(text);
  if (bad == std::string_view::npos) return ok_status();
  return invalid_argument("the text is not valid UTF-8 at byte " + std::to_string(bad));
}

}  // namespace

Result<Tokenizer> Tokenizer::parse(std::string_view json_text) {
  Result<TokenizerParts> parts = read_tokenizer_json(json_text);
  if (!parts.ok()) return parts.error();
  return Tokenizer(std::move(*parts));
}

Result<Tokenizer> Tokenizer::load(const std::string& path) {
  const Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  Result<Tokenizer> tokenizer = parse(file->text());
  if (!tokenizer.ok()) {
    return Error{tokenizer.error().code, path + ": " + tokenizer.error().message};
  }
  return tokenizer;
}

int Tokenizer::vocab_size() const {
  return static_cast<int>(parts_.bytes_of.size());
}

Status Tokenizer::append_plain(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<std::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const RegexSplitter& splitter : parts_.splits) {
    std::vector<std::string_view> finer;
    for (std::string_view piece : pieces) {
      if (Status status = splitter.split(piece, finer); !status.ok()) return status;
    }
    pieces = std::move(finer);
  }
  for (std::string_view piece : pieces) {
    const auto whole =
        parts_.whole_pieces_first ? parts_.id_of.find(std::string(piece)) : parts_.id_of.end();
    if (whole != parts_.id_of.end()) {
      ids.push_back(whole->second);
    } else {
      parts_.bpe.encode(piece, ids);
    }
  }
  return ok_status();
}

Result<std::vector<int32_t>> Tokenizer::encode_plain(std::string_view text) const {
  std::vector<int32_t> ids;
  Status status = check_text(text);
  if (status.ok()) status = append_plain(text, ids);
  if (!status.ok()) return status.error();
  return ids;
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  Status status = check_text(text);
  size_t plain_begin = 0;
  for (size_t at = 0; at < text.size() && status.ok();) {
    const AddedToken* token = parts_.added.at_start_of(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    status = append_plain(text.substr(plain_begin, at - plain_begin), ids);
    ids.push_back(token->id);
    at += token->text.size();
    plain_begin = at;
  }
  if (status.ok()) status = append_plain(text.substr(plain_begin), ids);
  if (!status.ok()) return status.error();
  return ids;
}

int32_t Tokenizer::added_token(std::string_view text) const {
  const AddedToken* token = parts_.added.find(text);
  return token == nullptr ? -1 : token->id;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return parts_.bytes_of[id];
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_->token_bytes(id);
  std::string text;
  take_utf8(pending_, text);
  return text;
}

std::string StreamDecoder::finish() {
  const std::string text(pending_.empty() ? "" : kReplacementCharacter);
  pending_.clear();
  return text;
}

}  // namespace plimsoll
