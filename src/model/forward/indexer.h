// The lightning indexer: which compressed entries a query of a sparse layer attends to.
#pragma once

#include <cstdint>
#include <span>

#include "model/forward/workspace.h"

namespace plimsoll {

// Adds a key [dim] as entry `entry_idx` to panels of keys.
void append_indexer_key(const float* key,
                        int dim,
                        int64_t entry_idx,
                        AlignedVector<float>& key_panels);

// The index_topk best of the first `num_visible` > index_topk entries, ascending, for the step's
// token `row`. Among equal scores the choice is that of a selection over a row of `row_length` >=
// num_visible entries of which the last are out of sight. Valid until the next call.
std::span<const int32_t> select_entries(ForwardWorkspace& workspace,
                                        int row,
                                        const AlignedVector<float>& key_panels,
                                        int num_visible,
                                        int row_length);

}  // namespace plimsoll
