// A few queries of one sequence attending together over their keys, lanes across (query, head)
// rows.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "model/checkpoint/layer_shape.h"
#include "model/forward/workspace.h"

namespace plimsoll {

// Keys (which are the values too), LayerShape::row_stride floats apart.
struct KeyRun {
  const float* keys = nullptr;
  int num_keys = 0;
};

// Consecutive tokens of a sequence, their windows' keys and the compressed entries before them.
// Keys that a query does not see may be among them and change nothing.
struct AttentionTile {
  int first_row = 0;  // of the queries, among the step's tokens
  int num_queries = 0;
  int64_t position = 0;      // of the first query
  int64_t padding = 0;       // leading tokens that no query sees
  int64_t origin = 0;        // the token at position 0, see position_origin()
  int64_t window_start = 0;  // position of the windows' first key
  std::array<KeyRun, 3> window;
  KeyRun entries;
  bool selected =
      false;  // the entries are those the indexer picked for the one query: all are seen
};

// How many queries fill the lanes.
int queries_per_tile(int num_heads);

// Reads the workspace's queries, writes its attention output, before the inverse rotation.
void attend_tile(ForwardWorkspace& workspace,
                 const LayerShape& shape,
                 std::span<const float> sink,
                 const AttentionTile& tile);

}  // namespace plimsoll
