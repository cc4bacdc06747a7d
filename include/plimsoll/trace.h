// Traces: which experts each token of a text chose, layer by layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/recording.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct ExpertTrace {
  std::string model;  // empty where nobody said
  int num_layers = 0;
  int num_logical_experts = 0;
  int top_k = 0;
  std::vector<int16_t> ids;  // [num_tokens, num_layers, top_k], in the order of the text; -1: none

  int64_t num_tokens() const {
    return num_layers == 0 ? 0 : static_cast<int64_t>(ids.size()) / (num_layers * top_k);
  }
};

// NAME.u8 holds uint8 ids [token][layer][k]; NAME.json beside it says tokens, layers, topk and
// experts (either may be named). NAME.npy is integers of the same shape. NAME.pt is a recording of
// the mode per_token. Several files must agree in layers and experts; recordings of several ranks
// are joined pass by pass, other files follow each other.
Result<ExpertTrace> load_trace(const std::string& path);
Result<ExpertTrace> load_trace(const std::vector<std::string>& paths,
                               const LoadOptions& options = {});

// Writes NAME.u8 and NAME.json; up to 256 experts, and none of the ids may be -1.
Status save_trace(const ExpertTrace& trace, const std::string& path);

// Counts by steps of so many tokens; the last step has what is left.
LoadHistory count_experts(const ExpertTrace& trace, int64_t tokens_per_step);

}  // namespace plimsoll
