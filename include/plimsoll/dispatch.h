// How the engine that runs a placement spreads an expert's tokens over its copies, and what that
// comes to: the load that every rank can expect.
//
// All source ranks are taken for alike: each sends the same number of tokens to every expert. The
// rules of SGLang are those of its release 0.5.23 (sglang/srt/eplb/expert_location.py and
// expert_location_dispatch.py), with an all-to-all backend and the placement given as a map
// (`init_by_mapping`), down to the draws of Python's random.Random(42).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "plimsoll/placement.h"
#include "plimsoll/result.h"

namespace plimsoll {

enum class Dispatch {
  kExact,  // as full as the fullest rank must be: Plimsoll's own routing
  // Every copy gets the same: vLLM, TensorRT-LLM, and SGLang's dynamic where it plans from counts
  // (`init_by_eplb`) or has no all-to-all backend.
  kEven,
  // SGLang's dynamic: the source's own copy; else the first one on its node, unless the node has
  // all or none; else any copy, drawn for each token.
  kDynamic,
  // SGLang's static: as kDynamic, but the last draw is made once, when the placement is loaded, and
  // holds for all tokens of the source.
  kStatic,
};

// exact, even, dynamic, static.
std::string_view dispatch_name(Dispatch dispatch);
std::optional<Dispatch> dispatch_of(std::string_view name);

// The slot to which kStatic sends the tokens of every source rank, [layers, ranks, experts]. Fails
// where the placement is not valid or the nodes do not divide the ranks.
Result<std::vector<int32_t>> static_dispatch_slots(const Placement& placement, int num_nodes);

// Tokens that each rank can expect of a load [layers, experts], as [layers, ranks]. Fails as above,
// and where the load has another shape.
Result<std::vector<double>> expected_rank_loads(const Placement& placement,
                                                std::span<const int64_t> load,
                                                Dispatch dispatch,
                                                int num_nodes = 1);

}  // namespace plimsoll
