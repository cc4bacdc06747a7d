// The text of one answer as its tokens come: whole characters only, cut at the first stop string,
// and never giving out what may yet turn out to be the beginning of one. An answer that begins with
// reasoning has two texts: that up to </think>, and what follows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace plimsoll {

class AnswerText {
 public:
  // `stops` may be null: there are none.
  AnswerText(const Tokenizer& tokenizer,
             std::shared_ptr<const std::vector<std::string>> stops,
             bool reasons = false)
      : decoder_(tokenizer),
        stops_(stops ? std::move(stops) : std::make_shared<const std::vector<std::string>>()),
        reasoning_end_(reasons ? tokenizer.added_token("</think>") : -1) {}

  // Takes a token; returns the text that has become certain.
  std::string push(int32_t token);
  // Returns what was held back, at the end.
  std::string finish();

  // Whether what the next push or finish returns is reasoning.
  bool in_reasoning() const { return reasoning_end_ >= 0; }
  // A stop string has appeared; the text ends before it and takes nothing more.
  bool stopped() const { return stopped_; }

 private:
  std::string release(bool is_end);

  StreamDecoder decoder_;
  std::shared_ptr<const std::vector<std::string>> stops_;
  int32_t reasoning_end_;  // the token that ends the reasoning; -1: none is to come
  std::string held_;
  bool stopped_ = false;
};

}  // namespace plimsoll
