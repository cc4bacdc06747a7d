// Choosing copies: the fewest that bring every rank under its capacity.
//
// The state is a flow of routed load (plimsoll/level.h). Ranks above their capacity that cannot
// pass on what they have too much, through experts they share with others, need copies. The fullest
// of them is served first: one of its experts is copied to a rank that has room, the flow is
// levelled again, and so on.
#pragma once

#include "plimsoll/just_in_time.h"

namespace plimsoll {

// Which rank takes load that several have room for. Neither needs the fewer copies always: packing
// load into room is packing bins.
enum class Fit {
  kEmptiest,  // leaves the rooms alike
  kBest,      // the least room that suffices
};

// Sets out from the batch of the route() that ran last with the workspace: no copies yet, what
// exceeds the waterline levelled as far as the standing copies allow.
void open_choice(const JitTables& tables, int64_t waterline, JitWorkspace& workspace);

// Of a choice just opened: no fewer copies bring all ranks under the waterline.
int32_t fewest_copies(const JitTables& tables, JitWorkspace& workspace);

// Of a choice just opened: chooses w.copies so that no rank holds more than fits under the
// waterline. False where spare slots, or experts worth a copy, run out: then w.copies are those
// that were found.
bool choose_copies(const JitTables& tables,
                   std::span<const int32_t> counts,
                   Fit fit,
                   JitWorkspace& workspace);

}  // namespace plimsoll
