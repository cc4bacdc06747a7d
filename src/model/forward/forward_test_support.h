// One rank serving whole steps by itself: what the tests of the forward pass hold everything
// against.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/forward/forward.h"

namespace plimsoll::testing {

// The weights in a folder, loaded once for all tests of the process.
const ModelWeights& load_model(const std::string& folder);
// A folder of the repository.
inline std::string in_repository(const std::string& path) {
  return std::string(PLIMSOLL_SOURCE_DIR) + "/" + path;
}

// Writes a checkpoint of random float32 weights with the shapes that config.json asks for, below
// the folder for temporary files; returns its path.
std::string write_random_checkpoint(const std::string& config_json, uint64_t seed);

// The config.json of a model whose sizes are multiples of nothing in particular.
std::string odd_config();

class SingleRank {
 public:
  explicit SingleRank(const ModelWeights& weights, const Kernels& kernels = plimsoll::kernels());

  // Computes a step; the logits of `rows` [rows, vocab].
  std::vector<float> step(std::span<const Segment> segments, std::span<const int32_t> rows);

  // Appends tokens to one sequence in chunks; the logits after each of them [tokens, vocab].
  std::vector<float> prefill(SequenceState& state, std::span<const int32_t> tokens, int chunk);

  // Experts chosen in the steps so far, by layer: [tokens, top_k].
  const std::vector<std::vector<int32_t>>& expert_ids() const { return expert_ids_; }

 private:
  void moe(int layer_idx, const GateResult& gate, std::vector<float>& out);

  const ModelWeights& weights_;
  RankForward forward_;
  ExpertScratch scratch_;
  std::vector<std::vector<int32_t>> expert_ids_;
};

}  // namespace plimsoll::testing
