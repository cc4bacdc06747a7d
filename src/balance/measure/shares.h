// The part of an expert's tokens that each of its copies computes, under the rules that know
// nothing of loads: even, dynamic and static.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "balance/measure/python_random.h"
#include "plimsoll/dispatch.h"

namespace plimsoll {

// The slots of every expert of one layer, ascending: those of expert e are the entries
// [begin[e], begin[e + 1]). Unlike a ReplicaTable it lists several copies on one rank.
struct CopyTable {
  CopyTable(std::span<const int32_t> expert_of_slot, int num_experts);

  std::span<const int32_t> of(int e) const {
    return std::span(slot).subspan(begin[e], begin[e + 1] - begin[e]);
  }

  std::vector<int32_t> begin;  // [num_experts + 1]
  std::vector<int32_t> slot;   // [num_slots]
};

struct RankGrid {
  int num_ranks = 0;
  int num_nodes = 1;
  int slots_per_rank = 0;

  int ranks_per_node() const { return num_ranks / num_nodes; }
  int rank_of(int slot) const { return slot / slots_per_rank; }
  int node_of(int rank) const { return rank / ranks_per_node(); }
};

// The copy among `slots` that SGLang holds for nearest to a source rank; -1: it draws one.
int nearest_slot(std::span<const int32_t> slots, int source, const RankGrid& grid);

// SGLang's static dispatch. Every source rank draws from a stream of its own, which goes on from
// layer to layer: layers must be asked for in their order.
class StaticDraws {
 public:
  explicit StaticDraws(const RankGrid& grid)
      : grid_(grid), streams_(grid.num_ranks, PythonRandom(kSeed)) {}

  // Where source ranks send the tokens of one layer's experts: take(source, expert, slot).
  template <typename Take>
  void next_layer(const CopyTable& copies, Take take) {
    const int num_experts = static_cast<int>(copies.begin.size()) - 1;
    for (int e = 0; e < num_experts; ++e) {
      const auto slots = copies.of(e);
      drawing_.clear();
      for (int source = 0; source < grid_.num_ranks; ++source) {
        const int slot = nearest_slot(slots, source, grid_);
        if (slot >= 0) {
          take(source, e, slot);
        } else {
          drawing_.push_back(source);
        }
      }
      for (size_t i = 0; i < drawing_.size(); ++i) {
        take(drawing_[i], e, draw(slots, i, streams_[drawing_[i]]));
      }
    }
  }

 private:
  static constexpr uint32_t kSeed = 42;  // SGLang's

  // A source deals the copies out to all sources that draw, and keeps what falls to itself.
  int32_t draw(std::span<const int32_t> slots, size_t which, PythonRandom& stream) {
    dealt_.clear();
    const size_t left = drawing_.size() % slots.size();
    for (size_t i = 0; i < drawing_.size() - left; ++i) dealt_.push_back(slots[i % slots.size()]);
    stream.sample(slots, static_cast<uint32_t>(left), dealt_);
    stream.shuffle(dealt_);
    return dealt_[which];
  }

  RankGrid grid_;
  std::vector<PythonRandom> streams_;  // [num_ranks]
  std::vector<int32_t> drawing_;       // sources without a copy at hand
  std::vector<int32_t> dealt_;
};

// What each slot can expect of its expert's tokens, before static's draw: [num_slots]. Exact
// routing has no such shares.
std::vector<double> expected_shares(const CopyTable& copies,
                                    Dispatch dispatch,
                                    const RankGrid& grid);

// The same after static's draw.
std::vector<double> drawn_shares(const CopyTable& copies, const RankGrid& grid, StaticDraws& draws);

// Tokens of every rank, [num_ranks].
std::vector<double> rank_loads(std::span<const int32_t> expert_of_slot,
                               std::span<const double> share,
                               std::span<const int64_t> load,
                               const RankGrid& grid);

// Tokens in whole ones; what floating point leaves above one does not count.
inline int64_t round_up(double tokens) {
  return static_cast<int64_t>(tokens + 1 - 1e-6);
}

}  // namespace plimsoll
