// What a sequence carries from one step to the next: everything attention needs of its past.
//
// The state is plain data: copy it to fork a sequence, serialise it to move the sequence to another
// process. A layer's record can be sent as soon as that layer's attention has run, before the later
// layers of the same step have been computed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/kernels/aligned_vector.h"
#include "plimsoll/result.h"

namespace plimsoll {

struct ModelConfig;

// A compressor's past: the rows of its last windows and the entries it has closed.
struct CompressorState {
  // Ring of the last tokens, token p in slot p mod CompressorShape::num_rows(): [raw kv | scores].
  AlignedVector<float> rows;
  // Closed entries, the oldest first, [entries, LayerShape::row_stride]. The indexer's keys are
  // kept in panels instead, [ceil(entries / 32), index_head_dim, 32], unused lanes zero.
  AlignedVector<float> entries;
};

struct LayerState {
  int64_t num_tokens = 0;  // tokens whose attention this layer has computed
  AlignedVector<float>
      window;  // ring [sliding_window, row_stride], token p in slot p mod its length
  CompressorState compressor;  // in layers with a compress ratio
  CompressorState indexer;     // in layers with a lightning indexer
};

struct SequenceState {
  int64_t num_tokens = 0;  // tokens of finished steps; the next token's position
  // Length of the prompt, whatever chunks it comes in; 0 if it is not known. Decides nothing but
  // which of equally scored entries a lightning indexer keeps (see top_scores.h).
  int64_t prompt_tokens = 0;
  // Leading tokens that are padding: later ones do not attend to them, and positions count from the
  // first token after them, as in transformers' generate() where a prompt opens with the padding
  // id.
  int64_t padding_tokens = 0;
  std::vector<LayerState> layers;
};

SequenceState make_sequence_state(const ModelConfig& config);

// The token that stands at position 0: the first one that is not padding, or the prompt's last
// where all of the prompt is.
inline int64_t position_origin(const SequenceState& state) {
  return std::min(state.padding_tokens, std::max<int64_t>(state.prompt_tokens - 1, 0));
}

// Bytes on the heap, including what vectors hold in reserve.
size_t memory_bytes(const SequenceState& state);

// What memory_bytes of sequences is at most, by their number and their tokens.
struct StateSize {
  int64_t bytes_per_sequence = 0;
  int64_t bytes_per_token = 0;

  int64_t bytes(int64_t num_sequences, int64_t num_tokens) const {
    return num_sequences * bytes_per_sequence + num_tokens * bytes_per_token;
  }
};
StateSize state_size(const ModelConfig& config);

// Appends one layer's record to `out`.
void serialize_layer(const ModelConfig& config,
                     const SequenceState& state,
                     int layer_idx,
                     std::vector<std::byte>& out);

// Reads the record at the front of `bytes` into the layer it names and drops it from `bytes`.
// `state` comes from make_sequence_state; its num_tokens becomes the record's. Fails, with the
// state unchanged, on a record that is cut short or was written by a model of other shapes.
Status deserialize_layer(const ModelConfig& config,
                         std::span<const std::byte>& bytes,
                         SequenceState& state);

// All layers' records, one after the other.
std::vector<std::byte> serialize_state(const ModelConfig& config, const SequenceState& state);
Result<SequenceState> deserialize_state(const ModelConfig& config,
                                        std::span<const std::byte> bytes);

}  // namespace plimsoll
