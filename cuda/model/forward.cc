#include "cuda/model/forward.h"

#include <algorithm>

#include "cuda/model/attention.h"
#include "cuda/model/compressor.h"
#include "cuda/model/gate.h"
#include "cuda/model/indexer.h"
#include "cuda/model/linear.h"
#include "cuda/model/rows.h"
#include "model/forward/rope.h"

namespace plimsoll::gpu {
namespace {

constexpr int64_t kScratchFloats = int64_t{64} << 20;  // of attention's logits, indexer's scores

size_t area(int64_t rows, int64_t width) {
  return static_cast<size_t>(rows * width);
}

Status check_tokens(std::span<const SequenceTokens> segments, int vocab_size) {
  for (const SequenceTokens& segment : segments) {
    for (int32_t token : segment.tokens) {
      if (token >= 0 && token < vocab_size) continue;
      return invalid_argument("token id " + std::to_string(token) +
                              " is outside the vocabulary, expected 0 to " +
                              std::to_string(vocab_size - 1));
    }
  }
  return ok_status();
}

// Calls work(first_row, num_rows) for blocks of rows whose scratch fits.
template <typename Work>
void in_blocks(int num_rows, int64_t floats_per_row, Work work) {
  const int64_t fit = std::max<int64_t>(kScratchFloats / std::max<int64_t>(floats_per_row, 1), 1);
  const int block = static_cast<int>(std::min<int64_t>(fit, num_rows));
  for (int first = 0; first < num_rows; first += block)
    work(first, std::min(block, num_rows - first));
}

}  // namespace

Forward::Forward(const PackedModel& model, Queue& queue)
    : model_(model),
      config_(model.config),
      queue_(queue),
      main_frequencies_(main_frequencies(model.config)),
      compress_frequencies_(compress_frequencies(model.config)) {}

void Forward::name_work(const std::string& part, int layer_idx) {
  queue_.set_context("layer " + std::to_string(layer_idx) + ", " + part + " of " +
                     std::to_string(num_tokens_) + " tokens");
}

Status Forward::begin(std::span<const SequenceTokens> segments, const StateLayout& layout) {
  if (Status status = check_tokens(segments, config_.vocab_size); !status.ok()) return status;
  queue_.set_context("taking up a step");
  layout_ = &layout;
  segments_.clear();
  for (const SequenceTokens& segment : segments) {
    if (!segment.tokens.empty()) segments_.push_back(segment);
  }
  place_tokens(segments_);
  place_pages(segments_);
  place_closings(segments_);
  float* const streams =
      streams_.at_least(queue_, area(int64_t{num_tokens_} * config_.hc_mult, config_.hidden_size));
  embed(queue_, model_.embedding, view_.tokens, num_tokens_, config_.hc_mult, streams);
  return queue_.failed() ? queue_.wait() : ok_status();
}

void Forward::place_tokens(std::span<const SequenceTokens> segments) {
  const size_t width = static_cast<size_t>(config_.qk_rope_head_dim);
  std::vector<int32_t> tokens, segment_of;
  std::vector<float> main, compress;
  segment_views_.clear();
  longest_ = 0;
  for (const SequenceTokens& segment : segments) {
    const Sequence& sequence = *segment.sequence;
    const int64_t last_prompt = std::max<int64_t>(sequence.prompt_tokens - 1, 0);
    const SegmentView view{.first_row = static_cast<int32_t>(tokens.size()),
                           .num_tokens = static_cast<int32_t>(segment.tokens.size()),
                           .start = sequence.num_tokens,
                           .prompt_tokens = sequence.prompt_tokens,
                           .padding = sequence.padding_tokens,
                           .origin = std::min(sequence.padding_tokens, last_prompt),
                           .rings = sequence.rings};
    for (int64_t t = 0; t < view.num_tokens; ++t) {
      const int64_t position = std::max<int64_t>(view.start + t - view.origin, 0);
      main.resize(main.size() + width);
      compress.resize(compress.size() + width);
      rotation_at(main_frequencies_, position, main.data() + main.size() - width);
      rotation_at(compress_frequencies_, position, compress.data() + compress.size() - width);
      segment_of.push_back(static_cast<int32_t>(segment_views_.size()));
    }
    tokens.insert(tokens.end(), segment.tokens.begin(), segment.tokens.end());
    longest_ = std::max({longest_, view.start + view.num_tokens, view.prompt_tokens});
    segment_views_.push_back(view);
  }
  num_tokens_ = static_cast<int>(tokens.size());
  view_ = {.num_tokens = num_tokens_,
           .num_layers = config_.num_hidden_layers,
           .page_floats = layout_->page_floats};
  view_.tokens = tokens_.upload(queue_, tokens);
  view_.segment_of = segment_of_.upload(queue_, segment_of);
  view_.segments = segment_array_.upload(queue_, segment_views_);
  view_.main_rotation = main_rotation_.upload(queue_, main);
  view_.compress_rotation = compress_rotation_.upload(queue_, compress);
}

void Forward::place_pages(std::span<const SequenceTokens> segments) {
  std::vector<float*> pages;
  std::vector<int32_t> begin;
  for (const SequenceTokens& segment : segments) {
    for (const auto& layer : segment.sequence->pages) {
      for (const std::vector<float*>& list : layer) {
        begin.push_back(static_cast<int32_t>(pages.size()));
        pages.insert(pages.end(), list.begin(), list.end());
      }
    }
  }
  view_.pages = pages_.upload(queue_, pages);
  view_.page_begin = page_begin_.upload(queue_, begin);
}

// Lists, for each ratio of the model, the entries that the step closes.
void Forward::place_closings(std::span<const SequenceTokens> segments) {
  const size_t width = static_cast<size_t>(config_.qk_rope_head_dim);
  closing_lists_.clear();
  for (const LayerPlace& place : layout_->layers) {
    const int ratio = place.shape.compressor.ratio;
    if (ratio == 0 || closings_of(ratio).ratio == ratio) continue;
    std::vector<Closing> closings;
    std::vector<float> rotation;
    for (size_t s = 0; s < segments.size(); ++s) {
      const SegmentView& view = segment_views_[s];
      const int64_t end = (view.start + view.num_tokens) / ratio;
      for (int64_t e = view.start / ratio; e < end; ++e) {
        closings.push_back({static_cast<int32_t>(s), static_cast<int32_t>(e)});
        rotation.resize(rotation.size() + width);
        rotation_at(compress_frequencies_, e * ratio, rotation.data() + rotation.size() - width);
      }
    }
    if (closing_arrays_.size() <= closing_lists_.size()) closing_arrays_.emplace_back();
    ClosingArrays& arrays = closing_arrays_[closing_lists_.size()];
    closing_lists_.push_back({ratio, static_cast<int>(closings.size()),
                              arrays.closings.upload(queue_, closings),
                              arrays.rotation.upload(queue_, rotation)});
  }
}

const ClosingList& Forward::closings_of(int ratio) const {
  static const ClosingList kNone;
  const auto found = std::ranges::find(closing_lists_, ratio, &ClosingList::ratio);
  return found == closing_lists_.end() ? kNone : *found;
}

HyperMix Forward::collapse(const PackedMix& mix, const float* streams, int num_tokens, float* u) {
  const int n = config_.hc_mult;
  const int width = n * config_.hidden_size;
  const int num_mixes = mix.mix.outputs;
  float* const raw = mix_.at_least(queue_, area(num_tokens, num_mixes));
  linear(queue_, mix.mix, {streams, width, num_tokens}, raw, num_mixes);
  const bool is_head = num_mixes == n;
  const HyperMix args{
      .streams = streams,
      .num_tokens = num_tokens,
      .num_streams = n,
      .dim = config_.hidden_size,
      .norm_eps = config_.rms_norm_eps,
      .eps = config_.hc_eps,
      .sinkhorn_iterations = config_.hc_sinkhorn_iters,
      .mix = raw,
      .scale = mix.scale,
      .base = mix.base,
      .pre = pre_.at_least(queue_, area(num_tokens, n)),
      .post = is_head ? nullptr : post_.at_least(queue_, area(num_tokens, n)),
      .comb = is_head ? nullptr : comb_.at_least(queue_, area(num_tokens, int64_t{n} * n))};
  hyper_mix(queue_, args);
  hyper_collapse(queue_, args, u);
  return args;
}

// The input of a block: the streams collapsed and normed, to the rows.
float* Forward::enter_block(const PackedMix& mix, const float* norm) {
  const int dim = config_.hidden_size;
  float* const rows = rows_.at_least(queue_, area(num_tokens_, dim));
  hyper_ = collapse(mix, streams_.data(), num_tokens_, rows);
  norm_rows(queue_, rows, dim, num_tokens_, dim, config_.rms_norm_eps, norm);
  return rows;
}

const float* Forward::rotation_of(const LayerPlace& place) const {
  return place.shape.has_compressor ? view_.compress_rotation : view_.main_rotation;
}

void Forward::project(const LayerPlace& place, const PackedAttention& weights) {
  const Rows x{rows_.data(), config_.hidden_size, num_tokens_};
  const int rank = config_.q_lora_rank;
  const int heads = config_.num_attention_heads;
  const int dim = config_.head_dim;
  const int stride = place.shape.row_stride;
  const float eps = config_.rms_norm_eps;
  float* const latent = query_latent_.at_least(queue_, area(num_tokens_, rank));
  linear(queue_, weights.query_down, x, latent, rank);
  norm_rows(queue_, latent, rank, num_tokens_, rank, eps, weights.query_norm);
  float* const query = query_.at_least(queue_, area(num_tokens_, int64_t{heads} * dim));
  linear(queue_, weights.query_up, {latent, rank, num_tokens_}, query, int64_t{heads} * dim);
  norm_rows(queue_, query, dim, num_tokens_ * heads, dim, eps, nullptr);
  rotate_rows(queue_, query, dim, num_tokens_, heads, dim, rotation_of(place),
              config_.qk_rope_head_dim, false);
  float* const kv = kv_.at_least(queue_, area(num_tokens_, stride));
  linear(queue_, weights.kv, x, kv, stride);
  norm_rows(queue_, kv, stride, num_tokens_, dim, eps, weights.kv_norm);
  rotate_rows(queue_, kv, stride, num_tokens_, 1, dim, rotation_of(place), config_.qk_rope_head_dim,
              false);
}

void Forward::compress_tokens(const LayerPlace& place, const PackedAttention& weights) {
  const Rows x{rows_.data(), config_.hidden_size, num_tokens_};
  const auto run = [&](EntryKind kind, const CompressorShape& shape,
                       const PackedCompressor& compressor) {
    const ClosingList& closings = closings_of(shape.ratio);
    const int width = shape.kv_dim();
    float* const kv = compress_kv_.at_least(queue_, area(num_tokens_, width));
    float* const score = compress_score_.at_least(queue_, area(num_tokens_, width));
    linear(queue_, compressor.kv, x, kv, width);
    linear(queue_, compressor.gate, x, score, width);
    compress(queue_, {.step = view_,
                      .place = place,
                      .kind = kind,
                      .closings = closings,
                      .kv = kv,
                      .score = score,
                      .bias = compressor.position_bias,
                      .norm = compressor.norm,
                      .entries = entries_.at_least(queue_, area(closings.count, shape.dim)),
                      .norm_eps = config_.rms_norm_eps,
                      .rotated = config_.qk_rope_head_dim});
  };
  if (place.shape.has_compressor) {
    run(EntryKind::kCompressed, place.shape.compressor, weights.compressor);
  }
  if (place.shape.has_indexer) {
    run(EntryKind::kIndexerKey, place.shape.indexer, weights.indexer_compressor);
  }
}

void Forward::attend_rows(const LayerPlace& place, const PackedAttention& weights) {
  const LayerShape& shape = place.shape;
  const int heads = config_.num_attention_heads;
  const int top_k = config_.index_topk;
  const bool selects = std::ranges::any_of(segment_views_, [&](const SegmentView& view) {
    return must_select(shape, view, view.start + view.num_tokens - 1, top_k);
  });
  if (selects) {
    const int dim = config_.index_head_dim;
    const int index_heads = config_.index_n_heads;
    const int most = static_cast<int>(longest_ / shape.indexer.ratio);
    float* const query = indexer_query_.at_least(queue_, area(num_tokens_, index_heads * dim));
    linear(queue_, weights.indexer_query, {query_latent_.data(), config_.q_lora_rank, num_tokens_},
           query, index_heads * dim);
    rotate_rows(queue_, query, dim, num_tokens_, index_heads, dim, rotation_of(place),
                config_.qk_rope_head_dim, false);
    float* const head_weights = indexer_weights_.at_least(queue_, area(num_tokens_, index_heads));
    linear(queue_, weights.indexer_head_weights, {rows_.data(), config_.hidden_size, num_tokens_},
           head_weights, index_heads);
    in_blocks(num_tokens_, int64_t{3} * most, [&](int first, int count) {
      select_entries(queue_, {.step = view_,
                              .place = place,
                              .num_heads = index_heads,
                              .top_k = top_k,
                              .query = query,
                              .weights = head_weights,
                              .first_row = first,
                              .num_rows = count,
                              .most_entries = most,
                              .scores = indexer_scores_.at_least(queue_, area(count, most)),
                              .scored = indexer_scored_.at_least(queue_, area(count, most)),
                              .selected = selected_.at_least(queue_, area(num_tokens_, top_k))});
    });
  }
  int most_keys = shape.window;
  if (shape.has_indexer) {
    most_keys += static_cast<int>(std::min<int64_t>(longest_ / shape.compressor.ratio, top_k));
  } else if (shape.has_compressor) {
    most_keys += static_cast<int>(longest_ / shape.compressor.ratio);
  }
  float* const output =
      output_.at_least(queue_, area(num_tokens_, int64_t{heads} * config_.head_dim));
  in_blocks(num_tokens_, int64_t{heads} * most_keys, [&](int first, int count) {
    const int64_t lanes = int64_t{count} * heads;
    attend(queue_, {.step = view_,
                    .place = place,
                    .num_heads = heads,
                    .top_k = top_k,
                    .query = query_.data(),
                    .kv = kv_.data(),
                    .selected = selected_.data(),
                    .sink = weights.sink,
                    .first_row = first,
                    .num_rows = count,
                    .most_keys = most_keys,
                    .logits = attention_logits_.at_least(queue_, area(lanes, most_keys)),
                    .scale = attention_scale_.at_least(queue_, area(lanes, 1)),
                    .output = output});
  });
}

void Forward::project_output(const LayerPlace& place, const PackedAttention& weights) {
  const int heads = config_.num_attention_heads;
  const int dim = config_.head_dim;
  const int groups = config_.o_groups;
  const int rank = config_.o_lora_rank;
  const int64_t heads_dim = int64_t{heads} * dim;
  const int64_t latent_dim = int64_t{groups} * rank;
  rotate_rows(queue_, output_.data(), dim, num_tokens_, heads, dim, rotation_of(place),
              config_.qk_rope_head_dim, true);
  float* const latent = output_latent_.at_least(queue_, area(num_tokens_, latent_dim));
  float* const out = block_output_.at_least(queue_, area(num_tokens_, config_.hidden_size));
  for (int g = 0; g < groups; ++g) {
    PackedWeight part = weights.output_down;  // the group's rows read the group's heads only
    part.first_output = g * rank;
    part.outputs = rank;
    linear(queue_, part, {output_.data() + g * part.inputs, heads_dim, num_tokens_},
           latent + g * rank, latent_dim);
  }
  linear(queue_, weights.output_up, {latent, latent_dim, num_tokens_}, out, config_.hidden_size);
}

void Forward::attention(int layer_idx) {
  name_work("attention", layer_idx);
  const PackedLayer& layer = model_.layers[layer_idx];
  const LayerPlace& place = layout_->layers[layer_idx];
  enter_block(layer.attention_mix, layer.attention.norm);
  project(place, layer.attention);
  compress_tokens(place, layer.attention);
  attend_rows(place, layer.attention);
  remember_keys(queue_, view_, place, kv_.data());
  project_output(place, layer.attention);
  hyper_expand(queue_, hyper_, block_output_.data(), streams_.data());
}

Result<GateChoice> Forward::gate(int layer_idx) {
  name_work("gate", layer_idx);
  const PackedLayer& layer = model_.layers[layer_idx];
  const int num_experts = config_.n_routed_experts;
  const size_t num_choices = area(num_tokens_, config_.num_experts_per_tok);
  const float* const rows = enter_block(layer.moe_mix, layer.moe_norm);
  float* const scores = gate_scores_.at_least(queue_, area(num_tokens_, num_experts));
  linear(queue_, layer.gate, {rows, config_.hidden_size, num_tokens_}, scores, num_experts);
  choose_experts(queue_, {.num_tokens = num_tokens_,
                          .num_experts = num_experts,
                          .top_k = config_.num_experts_per_tok,
                          .scaling = config_.routed_scaling_factor,
                          .scores = scores,
                          .bias = layer.gate_bias,
                          .token_experts = layer.token_experts,
                          .tokens = view_.tokens,
                          .ids = topk_ids_.at_least(queue_, num_choices),
                          .weights = topk_weights_.at_least(queue_, num_choices)});
  ids_.resize(num_choices);
  weights_.resize(num_choices);
  queue_.copy_out(ids_.data(), topk_ids_.data(), num_choices * sizeof(int32_t));
  queue_.copy_out(weights_.data(), topk_weights_.data(), num_choices * sizeof(float));
  if (Status status = queue_.wait(); !status.ok()) return status.error();
  return GateChoice{rows, ids_, weights_};
}

void Forward::finish_moe(const float* moe_out) {
  hyper_expand(queue_, hyper_, moe_out, streams_.data());
}

Status Forward::logits(std::span<const int32_t> rows, float* out) {
  queue_.set_context("the logits of " + std::to_string(rows.size()) + " tokens");
  const int num_rows = static_cast<int>(rows.size());
  const int dim = config_.hidden_size;
  const int64_t width = int64_t{config_.hc_mult} * dim;
  const size_t num_logits = area(num_rows, config_.vocab_size);
  float* const streams = head_streams_.at_least(queue_, area(num_rows, width));
  float* const hidden = head_rows_.at_least(queue_, area(num_rows, dim));
  float* const logits = logits_.at_least(queue_, num_logits);
  gather_rows(queue_, streams_.data(), wanted_.upload(queue_, rows), num_rows, width, streams);
  collapse(model_.head_mix, streams, num_rows, hidden);
  norm_rows(queue_, hidden, dim, num_rows, dim, config_.rms_norm_eps, model_.norm);
  linear(queue_, model_.head, {hidden, dim, num_rows}, logits, config_.vocab_size);
  queue_.copy_out(out, logits, num_logits * sizeof(float));
  return queue_.wait();
}

void Forward::end() {
  for (const SequenceTokens& segment : segments_) {
    segment.sequence->num_tokens += static_cast<int64_t>(segment.tokens.size());
  }
  segments_.clear();
  num_tokens_ = 0;
}

}  // namespace plimsoll::gpu
