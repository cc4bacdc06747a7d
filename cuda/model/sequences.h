// States of sequences in the memory of a queue's place: blocks of rings and pages of entries, both
// from pools that keep what is given back.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "cuda/device/array.h"
#include "cuda/model/step_view.h"
#include "model/forward/sequence_state.h"
#include "plimsoll/result.h"

namespace plimsoll::gpu {

struct StateLayout {
  std::vector<LayerPlace> layers;
  int64_t ring_floats = 0;
  int page_floats = 0;
};
StateLayout state_layout(const ModelConfig& config);

// What sequences take at most, with the pages they have begun.
StateSize paged_state_size(const ModelConfig& config);

// Blocks of one size, all zero when taken.
class BlockPool {
 public:
  explicit BlockPool(int64_t block_floats) : block_floats_(block_floats) {}
  float* take(Queue& queue);
  void give_back(float* block) { free_.push_back(block); }
  size_t num_taken() const { return num_blocks_ - free_.size(); }

 private:
  int64_t block_floats_;
  std::vector<Array<float>> slabs_;
  std::vector<float*> free_;
  size_t num_blocks_ = 0;
};

struct Sequence {
  int64_t num_tokens = 0;  // of finished steps
  int64_t prompt_tokens = 0;
  int64_t padding_tokens = 0;
  float* rings = nullptr;
  std::vector<std::array<std::vector<float*>, 2>> pages;  // [layer][EntryKind]
};

class Sequences {
 public:
  Sequences(const ModelConfig& config, Queue& queue);

  const StateLayout& layout() const { return layout_; }
  size_t size() const { return sequences_.size(); }
  size_t num_blocks_taken() const { return rings_.num_taken() + pages_.num_taken(); }

  // The sequence, new and empty if it is not there yet.
  Sequence& open(int64_t id, int64_t prompt_tokens, int64_t padding_tokens);
  void drop(int64_t id);
  // Pages for so many tokens.
  void grow(Sequence& sequence, int64_t num_tokens);

  // To and from the form in which states travel. A layer is complete up to `num_tokens` once its
  // attention has run.
  Status read_layer(int64_t id, int layer_idx, int64_t num_tokens, SequenceState& state);
  Status take_over(int64_t id, const SequenceState& state);

 private:
  int64_t entries_of(const LayerPlace& place, EntryKind kind, int64_t num_tokens) const;
  int width_of(const LayerPlace& place, EntryKind kind) const;

  const ModelConfig& config_;
  Queue& queue_;
  StateLayout layout_;
  BlockPool rings_, pages_;
  std::unordered_map<int64_t, Sequence> sequences_;
};

}  // namespace plimsoll::gpu
