#include "model/tokenizer/bpe.h"

#include <queue>

namespace plimsoll {
namespace {

// The piece as a list: a merge takes the right neighbour's place in.
struct Symbol {
  int32_t token;
  int32_t previous;
  int32_t next;  // -1: the end
};

// A pair that could merge. It is stale if one of its symbols has changed since.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t left, right;
  int32_t merged;

  bool operator<(const Candidate& other) const {  // std::priority_queue takes the greatest
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

void Bpe::encode(std::string_view piece, std::vector<int32_t>& tokens) const {
  const auto n = static_cast<int32_t>(piece.size());
  std::vector<Symbol> symbols(n);
  for (int32_t i = 0; i < n; ++i) {
    symbols[i] = {byte_tokens[static_cast<uint8_t>(piece[i])], i - 1, i + 1 < n ? i + 1 : -1};
  }
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t position) {
    if (position < 0 || symbols[position].next < 0) return;
    const int32_t left = symbols[position].token;
    const int32_t right = symbols[symbols[position].next].token;
    const auto merge = merges_.find(key(left, right));
    if (merge == merges_.end()) return;
    queue.push({merge->second.rank, position, left, right, merge->second.merged});
  };
  for (int32_t i = 0; i + 1 < n; ++i) consider(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.token != best.left || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    if (right.token != best.right) continue;
    left.token = best.merged;
    right.token = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[i].next) tokens.push_back(symbols[i].token);
}

}  // namespace plimsoll
