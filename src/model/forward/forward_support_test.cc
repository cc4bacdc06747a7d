#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <numeric>

#include "model/checkpoint/checkpoint.h"
#include "model/forward/forward_test_support.h"

namespace plimsoll::testing {

const ModelWeights& load_model(const std::string& folder) {
  static std::map<std::string, std::unique_ptr<ModelWeights>> loaded;
  std::unique_ptr<ModelWeights>& weights = loaded[folder];
  if (weights == nullptr) {
    auto checkpoint = Checkpoint::open(folder);
    if (!checkpoint.ok()) {
      ADD_FAILURE() << checkpoint.error().message;
      std::abort();
    }
    auto result = load_weights(*checkpoint, checkpoint->config());
    if (!result.ok()) {
      ADD_FAILURE() << result.error().message;
      std::abort();
    }
    weights = std::make_unique<ModelWeights>(std::move(result).value());
  }
  return *weights;
}

SingleRank::SingleRank(const ModelWeights& weights, const Kernels& kernels)
    : weights_(weights), forward_(weights, kernels), expert_ids_(weights.layers.size()) {
  scratch_.kernels = &kernels;
}

// Every expert over the tokens that chose it, then the sum of each token's in top-k order, the
// shared expert last.
void SingleRank::moe(int layer_idx, const GateResult& gate, std::vector<float>& out) {
  const ModelConfig& config = weights_.config;
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(layer_idx)];
  const size_t dim = static_cast<size_t>(config.hidden_size);
  const int k = config.num_experts_per_tok;
  const size_t num_choices = static_cast<size_t>(gate.num_tokens * k);
  const size_t num_tokens = static_cast<size_t>(gate.num_tokens);
  std::vector<float> products(num_choices * dim);
  for (size_t e = 0; e < layer.experts.size(); ++e) {
    std::vector<ExpertRow> rows;
    for (size_t c = 0; c < num_choices; ++c) {
      if (gate.topk_ids[c] != static_cast<int32_t>(e)) continue;
      rows.push_back({gate.rows + c / static_cast<size_t>(k) * dim, gate.topk_weights[c],
                      products.data() + c * dim});
    }
    expert_rows(layer.experts[e], config.swiglu_limit, rows, scratch_);
  }
  std::vector<float> shared(num_tokens * dim);
  std::vector<ExpertRow> shared_rows;
  for (size_t t = 0; t < num_tokens; ++t) {
    shared_rows.push_back({gate.rows + t * dim, 1.0f, shared.data() + t * dim});
  }
  expert_rows(layer.shared_expert, config.swiglu_limit, shared_rows, scratch_);
  out.assign(num_tokens * dim, 0.0f);
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t d = 0; d < dim; ++d) {
      float sum = 0;
      for (size_t i = 0; i < static_cast<size_t>(k); ++i) {
        sum += products[(t * static_cast<size_t>(k) + i) * dim + d];
      }
      out[t * dim + d] = sum + shared[t * dim + d];
    }
  }
}

std::vector<float> SingleRank::step(std::span<const Segment> segments,
                                    std::span<const int32_t> rows) {
  const Status begun = forward_.begin(segments);
  EXPECT_TRUE(begun.ok()) << begun.error().message;
  std::vector<float> moe_out;
  for (size_t l = 0; l < weights_.layers.size(); ++l) {
    const int layer_idx = static_cast<int>(l);
    forward_.attention(layer_idx);
    const GateResult gate = forward_.gate(layer_idx);
    const ptrdiff_t choices = ptrdiff_t{gate.num_tokens} * weights_.config.num_experts_per_tok;
    expert_ids_[l].insert(expert_ids_[l].end(), gate.topk_ids, gate.topk_ids + choices);
    moe(layer_idx, gate, moe_out);
    forward_.finish_moe(layer_idx, moe_out.data());
  }
  std::vector<float> logits(rows.size() * static_cast<size_t>(weights_.config.vocab_size));
  forward_.logits(rows, logits.data());
  forward_.end();
  return logits;
}

std::vector<float> SingleRank::prefill(SequenceState& state,
                                       std::span<const int32_t> tokens,
                                       int chunk) {
  std::vector<float> logits;
  while (!tokens.empty()) {
    const size_t count = std::min(tokens.size(), static_cast<size_t>(chunk));
    std::vector<int32_t> rows(count);
    std::iota(rows.begin(), rows.end(), 0);
    const Segment segment{&state, tokens.first(count)};
    const std::vector<float> more = step(std::span(&segment, 1), rows);
    logits.insert(logits.end(), more.begin(), more.end());
    tokens = tokens.subspan(count);
  }
  return logits;
}

}  // namespace plimsoll::testing
