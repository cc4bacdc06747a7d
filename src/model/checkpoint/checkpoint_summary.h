// What a checkpoint holds, and whether it is all that the model needs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint/checkpoint.h"

namespace plimsoll {

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;  // decoded
  int64_t id_limit = 0;        // above 0: a table of ids below it, not of numbers
};

// Names all that the forward pass reads, scales apart.
void for_each_tensor(const ModelConfig& config,
                     const std::function<void(const ExpectedTensor&)>& visit);

struct CheckpointSummary {
  static constexpr int kMaxProblems = 100;
  struct Total {
    int64_t num_tensors = 0;
    int64_t num_bytes = 0;
  };
  std::map<std::string, Total> by_dtype;  // everything in the files
  int64_t num_parameters = 0;             // numbers the forward pass reads, decoded
  int64_t num_problems = 0;               // missing or unusable tensors
  std::vector<std::string> problems;      // a sentence for each of the first kMaxProblems
  std::vector<std::string> unused;        // tensors nothing here reads, such as mtp.*
};

// Reads headers and tables of ids, not the weights: load finds values that are not finite.
CheckpointSummary summarize(const Checkpoint& checkpoint);

}  // namespace plimsoll
