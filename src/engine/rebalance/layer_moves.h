// Next placements of layers, made ready while steps go on: experts that the ranks of this process
// do not hold yet are read from the checkpoint, on a thread of their own.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/process_group.h"
#include "ep/moe_layout.h"
#include "model/checkpoint/checkpoint.h"
#include "model/forward/weights.h"

namespace plimsoll {

// A layer's placement: the logical expert of every slot.
struct LayerSlots {
  int32_t layer_idx = 0;
  std::vector<int32_t> slots;
};

// How making it ready went in one process. Empty `error`: well.
struct MoveReport {
  int32_t layer_idx = 0;
  double seconds = 0;
  std::string error;
};

// The slots of a layer on the ranks of a block; and the experts in them, each once, ascending.
std::span<const int32_t> slots_on(std::span<const int32_t> slots,
                                  int slots_per_rank,
                                  RankBlock ranks);
std::vector<int32_t> experts_on(std::span<const int32_t> slots,
                                int slots_per_rank,
                                RankBlock ranks);

// Lets go of the experts of a layer that are not needed (ascending).
void release_others(std::span<const int32_t> needed, std::span<ExpertWeights> held);

// All but the constructor and `reports` is called between steps only.
class LayerMoves {
 public:
  // All references must outlive the moves; `layout` is of all ranks, of which `local` are here.
  LayerMoves(const Checkpoint& checkpoint,
             ModelWeights& weights,
             MoeLayout& layout,
             const RouteOptions& route,
             RankBlock local);

  // Begins. A layer must not be prepared again before it was put in force or forgotten.
  void prepare(LayerSlots next);
  // Those that have ended since the last call; with `wait`, once all have.
  std::vector<MoveReport> reports(bool wait = false);
  // Of a layer that was reported without error. Experts that no rank here needs any more go.
  void put_in_force(int layer_idx);
  void forget(int layer_idx);

 private:
  struct Move {
    LayerSlots next;
    std::vector<int32_t> missing;  // experts
    LayerLayout layout;
    std::vector<ExpertWeights> experts;  // [missing]
  };

  void serve(std::stop_token stop);
  Status make_ready(Move& move) const;

  const Checkpoint& checkpoint_;
  ModelWeights& weights_;
  MoeLayout& layout_;
  const RouteOptions route_;
  const RankBlock local_;

  std::mutex mutex_;  // of all below but the thread
  std::condition_variable_any changed_;
  std::deque<Move> todo_;
  int busy_with_ = -1;         // the layer of the move that is in neither
  bool forgotten_ = false;     // that move
  std::map<int, Move> ready_;  // by layer
  std::vector<MoveReport> reports_;
  std::jthread thread_;
};

}  // namespace plimsoll
