#include "model/forward/sequence_state.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "model/checkpoint/config.h"
#include "model/checkpoint/layer_shape.h"
#include "model/kernels/kernels.h"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie");

// A layer's record: this header, then the live part of each of the state's arrays as float32.
struct RecordHeader {
  uint32_t magic = 0x534d4c50;  // "PLMS"
  uint32_t version = 1;
  uint32_t layer_idx = 0;
  uint32_t window = 0;
  uint32_t head_dim = 0;
  uint32_t ratio = 0;
  uint32_t index_head_dim = 0;
  uint32_t reserved = 0;
  int64_t num_tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t padding_tokens = 0;
};
static_assert(sizeof(RecordHeader) == 56);

RecordHeader header_for(const ModelConfig& config, int layer_idx) {
  const LayerShape shape = layer_shape(config, layer_idx);
  RecordHeader header;
  header.layer_idx = static_cast<uint32_t>(layer_idx);
  header.window = static_cast<uint32_t>(shape.window);
  header.head_dim = static_cast<uint32_t>(shape.head_dim);
  header.ratio = static_cast<uint32_t>(shape.compressor.ratio);
  header.index_head_dim = static_cast<uint32_t>(shape.indexer.dim);
  return header;
}

// A layer's arrays in the order of its record.
template <typename Layer>
auto arrays_of(Layer& layer) {
  return std::array{&layer.window, &layer.compressor.rows, &layer.compressor.entries,
                    &layer.indexer.rows, &layer.indexer.entries};
}

// How much of each of them is alive after so many tokens, in floats from its start.
std::array<size_t, 5> live_counts(const LayerShape& shape, int64_t num_tokens) {
  const auto ring = [&](int slots, int width) {
    return static_cast<size_t>(std::min<int64_t>(num_tokens, slots)) * static_cast<size_t>(width);
  };
  const auto closed = [&](const CompressorShape& s) {
    return s.ratio == 0 ? size_t{0} : static_cast<size_t>(num_tokens / s.ratio);
  };
  const size_t panels = (closed(shape.indexer) + kPanelLanes - 1) / kPanelLanes;
  return {ring(shape.window, shape.row_stride),
          ring(shape.compressor.num_rows(), shape.compressor.row_dim()),
          closed(shape.compressor) * static_cast<size_t>(shape.row_stride),
          ring(shape.indexer.num_rows(), shape.indexer.row_dim()),
          panels * kPanelLanes * static_cast<size_t>(shape.indexer.dim)};
}

Error refused(const std::string& what) {
  return corrupt_file("a sequence state's layer record " + what +
                      "; send the state again from a process serving the same model");
}

Status check_header(const ModelConfig& config, const RecordHeader& header) {
  if (header.magic != RecordHeader{}.magic) return refused("does not start with its magic number");
  if (header.version != RecordHeader{}.version) {
    return refused("has version " + std::to_string(header.version) + ", expected 1");
  }
  if (header.layer_idx >= static_cast<uint32_t>(config.num_hidden_layers)) {
    return refused("is for layer " + std::to_string(header.layer_idx) + " of a model with " +
                   std::to_string(config.num_hidden_layers));
  }
  for (int64_t count : {header.num_tokens, header.prompt_tokens, header.padding_tokens}) {
    if (count < 0 || count > config.max_position_embeddings) {
      return refused("claims " + std::to_string(count) + " tokens of a model that takes at most " +
                     std::to_string(config.max_position_embeddings));
    }
  }
  RecordHeader expected = header_for(config, static_cast<int>(header.layer_idx));
  expected.num_tokens = header.num_tokens;
  expected.prompt_tokens = header.prompt_tokens;
  expected.padding_tokens = header.padding_tokens;
  if (std::memcmp(&header, &expected, sizeof header) != 0) {
    return refused("for layer " + std::to_string(header.layer_idx) +
                   " was written by a model of other shapes");
  }
  return ok_status();
}

}  // namespace

SequenceState make_sequence_state(const ModelConfig& config) {
  SequenceState state;
  state.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    const LayerShape shape = layer_shape(config, l);
    const auto floats = [](int rows, int width) {
      return static_cast<size_t>(rows) * static_cast<size_t>(width);
    };
    LayerState& layer = state.layers[static_cast<size_t>(l)];
    layer.window.assign(floats(shape.window, shape.row_stride), 0.0f);
    layer.compressor.rows.assign(floats(shape.compressor.num_rows(), shape.compressor.row_dim()),
                                 0.0f);
    layer.indexer.rows.assign(floats(shape.indexer.num_rows(), shape.indexer.row_dim()), 0.0f);
  }
  return state;
}

size_t memory_bytes(const SequenceState& state) {
  size_t floats = 0;
  for (const LayerState& layer : state.layers) {
    for (const auto* array : arrays_of(layer)) floats += array->capacity();
  }
  return floats * sizeof(float) + state.layers.capacity() * sizeof(LayerState);
}

StateSize state_size(const ModelConfig& config) {
  constexpr int64_t kGrowth = 2;  // a vector that grows holds up to twice what it needs
  StateSize size{.bytes_per_sequence =
                     static_cast<int64_t>(memory_bytes(make_sequence_state(config)))};
  const auto bytes = [](int64_t floats) {
    return kGrowth * floats * static_cast<int64_t>(sizeof(float));
  };
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    const LayerShape shape = layer_shape(config, l);
    if (shape.has_compressor) {
      const int ratio = shape.compressor.ratio;
      size.bytes_per_token += bytes((shape.row_stride + ratio - 1) / ratio);
    }
    if (shape.has_indexer) {
      const int ratio = shape.indexer.ratio;
      size.bytes_per_token += bytes((shape.indexer.dim + ratio - 1) / ratio);
      size.bytes_per_sequence += bytes(kPanelLanes * shape.indexer.dim);  // the last, open panel
    }
  }
  return size;
}

void serialize_layer(const ModelConfig& config,
                     const SequenceState& state,
                     int layer_idx,
                     std::vector<std::byte>& out) {
  const LayerState& layer = state.layers[static_cast<size_t>(layer_idx)];
  const auto append = [&](const void* data, size_t size) {
    const std::byte* bytes = static_cast<const std::byte*>(data);
    out.insert(out.end(), bytes, bytes + size);
  };
  RecordHeader header = header_for(config, layer_idx);
  header.num_tokens = layer.num_tokens;
  header.prompt_tokens = state.prompt_tokens;
  header.padding_tokens = state.padding_tokens;
  append(&header, sizeof header);
  const auto counts = live_counts(layer_shape(config, layer_idx), layer.num_tokens);
  const auto arrays = arrays_of(layer);
  for (size_t i = 0; i < arrays.size(); ++i) append(arrays[i]->data(), counts[i] * sizeof(float));
}

Status deserialize_layer(const ModelConfig& config,
                         std::span<const std::byte>& bytes,
                         SequenceState& state) {
  RecordHeader header;
  if (bytes.size() < sizeof header) return refused("is cut short");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (Status status = check_header(config, header); !status) return status;
  const auto counts =
      live_counts(layer_shape(config, static_cast<int>(header.layer_idx)), header.num_tokens);
  size_t size = sizeof header;
  for (size_t count : counts) size += count * sizeof(float);
  if (bytes.size() < size) {
    return refused("is cut short: it needs " + std::to_string(size) + " bytes and has " +
                   std::to_string(bytes.size()));
  }
  LayerState& layer = state.layers[header.layer_idx];
  layer.compressor.entries.clear();  // the rings keep their full length
  layer.indexer.entries.clear();
  const std::byte* from = bytes.data() + sizeof header;
  const auto arrays = arrays_of(layer);
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i]->size() < counts[i]) arrays[i]->resize(counts[i]);
    if (counts[i] > 0) std::memcpy(arrays[i]->data(), from, counts[i] * sizeof(float));
    from += counts[i] * sizeof(float);
  }
  layer.num_tokens = header.num_tokens;
  state.num_tokens = header.num_tokens;
  state.prompt_tokens = header.prompt_tokens;
  state.padding_tokens = header.padding_tokens;
  bytes = bytes.subspan(size);
  return ok_status();
}

std::vector<std::byte> serialize_state(const ModelConfig& config, const SequenceState& state) {
  std::vector<std::byte> out;
  for (int l = 0; l < config.num_hidden_layers; ++l) serialize_layer(config, state, l, out);
  return out;
}

Result<SequenceState> deserialize_state(const ModelConfig& config,
                                        std::span<const std::byte> bytes) {
  SequenceState state = make_sequence_state(config);
  std::vector<bool> read(state.layers.size(), false);
  for (bool first = true; !bytes.empty(); first = false) {
    RecordHeader header;
    std::memcpy(&header, bytes.data(), std::min(sizeof header, bytes.size()));
    const auto counts = [&] {
      return std::array{state.num_tokens, state.prompt_tokens, state.padding_tokens};
    };
    const auto before = counts();
    if (Status status = deserialize_layer(config, bytes, state); !status) return status.error();
    if (!first && counts() != before) {
      return refused("for layer " + std::to_string(header.layer_idx) +
                     " counts other tokens than the one before it");
    }
    read[header.layer_idx] = true;
  }
  for (size_t l = 0; l < read.size(); ++l) {
    if (!read[l]) return refused("is missing for layer " + std::to_string(l));
  }
  return state;
}

}  // namespace plimsoll
