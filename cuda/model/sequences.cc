#include "cuda/model/sequences.h"

#include <algorithm>

#include "model/checkpoint/config.h"
#include "model/kernels/kernels.h"

namespace plimsoll::gpu {
namespace {

constexpr std::array kKinds = {EntryKind::kCompressed, EntryKind::kIndexerKey};
constexpr int64_t kFloatBytes = sizeof(float);

// The kind's part of a layer's state, as it travels.
CompressorState& part_of(LayerState& layer, EntryKind kind) {
  return kind == EntryKind::kCompressed ? layer.compressor : layer.indexer;
}
const CompressorShape& shape_of(const LayerPlace& place, EntryKind kind) {
  return kind == EntryKind::kCompressed ? place.shape.compressor : place.shape.indexer;
}
int64_t rows_at(const LayerPlace& place, EntryKind kind) {
  return kind == EntryKind::kCompressed ? place.compressor_rows : place.indexer_rows;
}

// Where an indexer key's channel lies in the panels in which keys travel.
size_t panel_place(int64_t entry, int channel, int dim) {
  return static_cast<size_t>((entry / kPanelLanes * dim + channel) * kPanelLanes +
                             entry % kPanelLanes);
}

}  // namespace

StateLayout state_layout(const ModelConfig& config) {
  constexpr int kEntriesPerPage = 32;
  StateLayout layout;
  for (int l = 0; l < config.num_hidden_layers; ++l) {
    LayerPlace place{.layer_idx = l, .shape = layer_shape(config, l)};
    const auto take = [&](int rows, int width) {
      const int64_t at = layout.ring_floats;
      layout.ring_floats += int64_t{rows} * width;
      return at;
    };
    place.window = take(place.shape.window, place.shape.row_stride);
    place.compressor_rows =
        take(place.shape.compressor.num_rows(), place.shape.compressor.row_dim());
    place.indexer_rows = take(place.shape.indexer.num_rows(), place.shape.indexer.row_dim());
    const int widest = std::max(place.shape.row_stride, place.shape.indexer.dim);
    layout.page_floats = std::max(layout.page_floats, kEntriesPerPage * widest);
    layout.layers.push_back(place);
  }
  return layout;
}

StateSize paged_state_size(const ModelConfig& config) {
  const StateLayout layout = state_layout(config);
  StateSize size{.bytes_per_sequence = layout.ring_floats * kFloatBytes};
  for (const LayerPlace& place : layout.layers) {
    for (EntryKind kind : kKinds) {
      const CompressorShape& shape = shape_of(place, kind);
      if (shape.ratio == 0) continue;
      const int width = kind == EntryKind::kCompressed ? place.shape.row_stride : shape.dim;
      const int64_t tokens_per_page = int64_t{layout.page_floats / width} * shape.ratio;
      size.bytes_per_sequence += layout.page_floats * kFloatBytes;
      size.bytes_per_token +=
          (layout.page_floats * kFloatBytes + tokens_per_page - 1) / tokens_per_page;
    }
  }
  return size;
}

float* BlockPool::take(Queue& queue) {
  constexpr int64_t kSlabFloats = int64_t{4} << 20;
  if (free_.empty()) {
    const int64_t count = std::max<int64_t>(kSlabFloats / block_floats_, 1);
    float* const slab =
        slabs_.emplace_back().at_least(queue, static_cast<size_t>(count * block_floats_));
    if (slab == nullptr) return nullptr;
    for (int64_t i = count; i-- > 0;) free_.push_back(slab + i * block_floats_);
    num_blocks_ += static_cast<size_t>(count);
  }
  float* const block = free_.back();
  free_.pop_back();
  queue.fill_zero(block, static_cast<size_t>(block_floats_ * kFloatBytes));
  return block;
}

Sequences::Sequences(const ModelConfig& config, Queue& queue)
    : config_(config),
      queue_(queue),
      layout_(state_layout(config)),
      rings_(layout_.ring_floats),
      pages_(layout_.page_floats) {}

Sequence& Sequences::open(int64_t id, int64_t prompt_tokens, int64_t padding_tokens) {
  const auto [found, is_new] = sequences_.try_emplace(id);
  Sequence& sequence = found->second;
  if (!is_new) return sequence;
  sequence.prompt_tokens = prompt_tokens;
  sequence.padding_tokens = padding_tokens;
  sequence.rings = rings_.take(queue_);
  sequence.pages.resize(layout_.layers.size());
  return sequence;
}

void Sequences::drop(int64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  if (found->second.rings != nullptr) rings_.give_back(found->second.rings);
  for (const auto& layer : found->second.pages) {
    for (const std::vector<float*>& pages : layer) {
      for (float* page : pages) pages_.give_back(page);
    }
  }
  sequences_.erase(found);
}

int64_t Sequences::entries_of(const LayerPlace& place, EntryKind kind, int64_t num_tokens) const {
  const int ratio = shape_of(place, kind).ratio;
  return ratio == 0 ? 0 : num_tokens / ratio;
}

int Sequences::width_of(const LayerPlace& place, EntryKind kind) const {
  return kind == EntryKind::kCompressed ? place.shape.row_stride : place.shape.indexer.dim;
}

void Sequences::grow(Sequence& sequence, int64_t num_tokens) {
  for (const LayerPlace& place : layout_.layers) {
    for (EntryKind kind : kKinds) {
      std::vector<float*>& pages = sequence.pages[place.layer_idx][static_cast<int>(kind)];
      const int64_t entries = entries_of(place, kind, num_tokens);
      while (entries > 0) {
        const int per_page = layout_.page_floats / width_of(place, kind);
        if (static_cast<int64_t>(pages.size()) * per_page >= entries) break;
        float* const page = pages_.take(queue_);
        if (page == nullptr) return;
        pages.push_back(page);
      }
    }
  }
}

Status Sequences::read_layer(int64_t id, int layer_idx, int64_t num_tokens, SequenceState& state) {
  const Sequence& sequence = sequences_.at(id);
  const LayerPlace& place = layout_.layers[layer_idx];
  LayerState& layer = state.layers[layer_idx];
  const auto copy = [&](AlignedVector<float>& to, int64_t at) {
    queue_.copy_out(to.data(), sequence.rings + at, to.size() * sizeof(float));
  };
  copy(layer.window, place.window);
  std::array<std::vector<float>, 2> entries;
  for (EntryKind kind : kKinds) {
    copy(part_of(layer, kind).rows, rows_at(place, kind));
    std::vector<float>& to = entries[static_cast<int>(kind)];
    const int width = width_of(place, kind);
    const int64_t count = entries_of(place, kind, num_tokens) * width;
    const int64_t per_page = width == 0 ? 0 : int64_t{layout_.page_floats / width} * width;
    to.resize(count);
    const auto& pages = sequence.pages[layer_idx][static_cast<int>(kind)];
    for (int64_t at = 0, p = 0; at < count; at += per_page, ++p) {
      const int64_t part = std::min(per_page, count - at);
      queue_.copy_out(to.data() + at, pages[p], part * sizeof(float));
    }
  }
  if (Status status = queue_.wait(); !status.ok()) return status;

  layer.num_tokens = num_tokens;
  layer.compressor.entries.assign(entries[0].begin(), entries[0].end());
  const int dim = place.shape.indexer.dim;
  const auto num_keys = entries_of(place, EntryKind::kIndexerKey, num_tokens);
  const int64_t panels = (num_keys + kPanelLanes - 1) / kPanelLanes;
  layer.indexer.entries.assign(panels * kPanelLanes * dim, 0.0f);
  for (int64_t e = 0; e < num_keys; ++e) {
    for (int d = 0; d < dim; ++d) {
      layer.indexer.entries[panel_place(e, d, dim)] = entries[1][e * dim + d];
    }
  }
  state.prompt_tokens = sequence.prompt_tokens;
  state.padding_tokens = sequence.padding_tokens;
  return ok_status();
}

Status Sequences::take_over(int64_t id, const SequenceState& state) {
  drop(id);
  Sequence& sequence = open(id, state.prompt_tokens, state.padding_tokens);
  sequence.num_tokens = state.num_tokens;
  grow(sequence, state.num_tokens);
  if (queue_.failed()) return queue_.wait();
  for (const LayerPlace& place : layout_.layers) {
    const LayerState& layer = state.layers[place.layer_idx];
    const auto copy = [&](int64_t at, const AlignedVector<float>& from) {
      queue_.copy_in(sequence.rings + at, from.data(), from.size() * sizeof(float));
    };
    copy(place.window, layer.window);
    copy(place.compressor_rows, layer.compressor.rows);
    copy(place.indexer_rows, layer.indexer.rows);
    const int dim = place.shape.indexer.dim;
    const int64_t num_keys = entries_of(place, EntryKind::kIndexerKey, state.num_tokens);
    std::vector<float> keys(num_keys * dim);
    for (int64_t e = 0; e < num_keys; ++e) {
      for (int d = 0; d < dim; ++d) {
        keys[e * dim + d] = layer.indexer.entries[panel_place(e, d, dim)];
      }
    }
    for (EntryKind kind : kKinds) {
      const int width = width_of(place, kind);
      const int64_t count = entries_of(place, kind, state.num_tokens) * width;
      const float* from =
          kind == EntryKind::kCompressed ? layer.compressor.entries.data() : keys.data();
      const int64_t per_page = width == 0 ? 0 : int64_t{layout_.page_floats / width} * width;
      const auto& pages = sequence.pages[place.layer_idx][static_cast<int>(kind)];
      for (int64_t at = 0, p = 0; at < count; at += per_page, ++p) {
        queue_.copy_in(pages[p], from + at, std::min(per_page, count - at) * sizeof(float));
      }
    }
  }
  return queue_.wait();
}

}  // namespace plimsoll::gpu
