// The forward pass written down as plainly as possible, in double precision and without any state,
// to hold the engine's against where no published answers exist: sizes that fit no vector register.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/layer_shape.h"
#include "model/forward/forward_test_support.h"
#include "model/forward/rope.h"
#include "model/kernels/top_scores.h"

namespace plimsoll {
namespace {

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;

class Reference {
 public:
  explicit Reference(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        main_(main_frequencies(config_)),
        compress_(compress_frequencies(config_)) {}

  // The logits after every token.
  Rows logits(const std::vector<int32_t>& tokens) {
    std::vector<Rows> streams;  // [tokens][hc_mult][D]
    const Rows embedding = matrix("embed.weight", config_.vocab_size, config_.hidden_size);
    for (int32_t token : tokens) {
      streams.push_back(Rows(size(config_.hc_mult), embedding[size(token)]));
    }
    for (int l = 0; l < config_.num_hidden_layers; ++l) {
      prefix_ = "layers." + std::to_string(l) + ".";
      block(streams, "hc_attn", "attn_norm", [&](const Rows& x) { return attention(l, x); });
      block(streams, "hc_ffn", "ffn_norm", [&](const Rows& x) { return moe(l, x, tokens); });
    }
    prefix_.clear();
    const Rows head = matrix("head.weight", config_.vocab_size, config_.hidden_size);
    Rows out;
    for (const Rows& x : streams) {
      const Vector pre = mixes("hc_head", x, config_.hc_mult, 1);
      Vector y(size(config_.hidden_size));
      for (size_t j = 0; j < x.size(); ++j) {
        const double weight = sigmoid(pre[j] * vector("hc_head_scale", 1)[0] +
                                      vector("hc_head_base", config_.hc_mult)[j]) +
                              config_.hc_eps;
        add(y, weight, x[j]);
      }
      out.push_back(apply(head, norm(y, "norm.weight")));
    }
    return out;
  }

 private:
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static void add(Vector& y, double weight, const Vector& x) {
    for (size_t i = 0; i < y.size(); ++i) y[i] += weight * x[i];
  }
  static double dot(const Vector& a, const Vector& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }

  Vector vector(const std::string& name, int64_t n) {
    const auto loaded = checkpoint_.load(prefix_ + name, std::vector<int64_t>{n});
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    return Vector(loaded->begin(), loaded->end());
  }
  Rows matrix(const std::string& name, int64_t rows, int64_t columns) {
    const auto loaded = checkpoint_.load(prefix_ + name, std::vector<int64_t>{rows, columns});
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    Rows out;
    for (int64_t r = 0; r < rows; ++r) {
      out.emplace_back(loaded->begin() + r * columns, loaded->begin() + (r + 1) * columns);
    }
    return out;
  }
  static Vector apply(const Rows& w, const Vector& x) {
    Vector y;
    for (const Vector& row : w) y.push_back(dot(row, x));
    return y;
  }
  Rows apply_all(const std::string& name, int64_t outputs, const Rows& x) {
    const Rows w = matrix(name, outputs, static_cast<int64_t>(x[0].size()));
    Rows y;
    for (const Vector& row : x) y.push_back(apply(w, row));
    return y;
  }
  double inverse_rms(const Vector& x) const {
    return 1 / std::sqrt(dot(x, x) / static_cast<double>(x.size()) + config_.rms_norm_eps);
  }
  Vector norm(Vector x, const std::string& name) {
    const Vector w = vector(name, static_cast<int64_t>(x.size()));
    const double factor = inverse_rms(x);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= factor * w[i];
    return x;
  }
  // Turns the last dimensions of x from `first` on.
  void rotate(double* x, size_t dim, int64_t position, bool compressed, bool inverse) const {
    const std::vector<float>& frequencies = compressed ? compress_ : main_;
    double* pair = x + dim - 2 * frequencies.size();
    for (float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      const double c = std::cos(angle), s = inverse ? -std::sin(angle) : std::sin(angle);
      const double even = pair[0], odd = pair[1];
      pair[0] = even * c - odd * s;
      pair[1] = odd * c + even * s;
      pair += 2;
    }
  }

  Vector mixes(const std::string& name, const Rows& x, int rows, int) {
    Vector flat;
    for (const Vector& stream : x) flat.insert(flat.end(), stream.begin(), stream.end());
    Vector m = apply(matrix(name + "_fn", rows, static_cast<int64_t>(flat.size())), flat);
    for (double& value : m) value *= inverse_rms(flat);
    return m;
  }

  using Block = std::function<Rows(const Rows&)>;
  void block(std::vector<Rows>& streams,
             const std::string& mix,
             const std::string& norm_name,
             const Block& compute) {
    const size_t n = size(config_.hc_mult);
    Rows inputs, posts;
    std::vector<Rows> combs;
    for (const Rows& x : streams) {
      const Vector m = mixes(mix, x, static_cast<int>((2 + n) * n), 3);
      const Vector scale = vector(mix + "_scale", 3);
      const Vector base = vector(mix + "_base", static_cast<int64_t>((2 + n) * n));
      Vector u(size(config_.hidden_size)), post(n);
      Rows comb(n, Vector(n));
      for (size_t j = 0; j < n; ++j) {
        add(u, sigmoid(m[j] * scale[0] + base[j]) + config_.hc_eps, x[j]);
        post[j] = 2 * sigmoid(m[n + j] * scale[1] + base[n + j]);
        for (size_t k = 0; k < n; ++k) {
          const size_t at = 2 * n + j * n + k;
          comb[j][k] = std::exp(m[at] * scale[2] + base[at]);
        }
      }
      sinkhorn(comb);
      inputs.push_back(norm(u, norm_name + ".weight"));
      posts.push_back(post);
      combs.push_back(comb);
    }
    const Rows outputs = compute(inputs);
    for (size_t t = 0; t < streams.size(); ++t) {
      Rows next(n, Vector(size(config_.hidden_size)));
      for (size_t k = 0; k < n; ++k) {
        add(next[k], posts[t][k], outputs[t]);
        for (size_t j = 0; j < n; ++j) add(next[k], combs[t][j][k], streams[t][j]);
      }
      streams[t] = next;
    }
  }

  void sinkhorn(Rows& c) const {
    const auto divide_rows = [&](double eps) {
      for (Vector& row : c) {
        const double sum = std::accumulate(row.begin(), row.end(), eps);
        for (double& value : row) value /= sum;
      }
    };
    const auto divide_columns = [&] {
      for (size_t k = 0; k < c.size(); ++k) {
        double sum = config_.hc_eps;
        for (const Vector& row : c) sum += row[k];
        for (Vector& row : c) row[k] /= sum;
      }
    };
    divide_rows(0);
    for (Vector& row : c) {
      for (double& value : row) value += config_.hc_eps;
    }
    divide_columns();
    for (int i = 1; i < config_.hc_sinkhorn_iters; ++i) {
      divide_rows(config_.hc_eps);
      divide_columns();
    }
  }

  // Entries of the windows that x closes.
  Rows compress(const std::string& name, const CompressorShape& shape, const Rows& x) {
    const Rows kv = apply_all(name + ".wkv.weight", shape.kv_dim(), x);
    Rows score = apply_all(name + ".wgate.weight", shape.kv_dim(), x);
    const Rows ape = matrix(name + ".ape", shape.ratio, shape.kv_dim());
    const int64_t r = shape.ratio;
    for (size_t t = 0; t < x.size(); ++t) add(score[t], 1, ape[t % size(r)]);
    Rows entries;
    for (int64_t i = 0; (i + 1) * r <= static_cast<int64_t>(x.size()); ++i) {
      Vector entry;
      for (int64_t c = 0; c < shape.dim; ++c) {
        double sum = 0, value = 0;
        for (int64_t p = std::max<int64_t>(0, (i + 1 - shape.overlap) * r); p < (i + 1) * r; ++p) {
          const int64_t channel = p >= i * r ? c + (shape.overlap - 1) * shape.dim : c;
          const double weight = std::exp(score[size(p)][size(channel)]);
          sum += weight;
          value += weight * kv[size(p)][size(channel)];
        }
        entry.push_back(value / sum);
      }
      entry = norm(entry, name + ".norm.weight");
      rotate(entry.data(), entry.size(), i * r, true, false);
      entries.push_back(entry);
    }
    return entries;
  }

  // Which entries each token sees.
  std::vector<std::vector<size_t>> visible_entries(const LayerShape& shape,
                                                   const Rows& x,
                                                   const Rows& query_latent,
                                                   size_t num_entries) {
    std::vector<std::vector<size_t>> visible(x.size());
    Rows keys, queries, weights;
    if (shape.has_indexer) {
      keys = compress("attn.indexer.compressor", shape.indexer, x);
      queries = apply_all("attn.indexer.wq_b.weight",
                          config_.index_n_heads * config_.index_head_dim, query_latent);
      weights = apply_all("attn.indexer.weights_proj.weight", config_.index_n_heads, x);
    }
    for (size_t t = 0; t < x.size(); ++t) {
      const size_t count = (t + 1) / size(shape.compressor.ratio);
      if (!shape.has_indexer || count <= size(config_.index_topk)) {
        visible[t].resize(count);
        std::iota(visible[t].begin(), visible[t].end(), size_t{0});
        continue;
      }
      std::vector<ScoredEntry> row;
      for (size_t i = 0; i < num_entries; ++i) {
        double score = i < count ? 0 : -1e30;
        for (size_t h = 0; h < size(config_.index_n_heads) && i < count; ++h) {
          Vector q(queries[t].begin() + static_cast<ptrdiff_t>(h * keys[i].size()),
                   queries[t].begin() + static_cast<ptrdiff_t>((h + 1) * keys[i].size()));
          rotate(q.data(), q.size(), static_cast<int64_t>(t), true, false);
          score += weights[t][h] * std::max(dot(q, keys[i]), 0.0);
        }
        row.push_back({static_cast<float>(score), static_cast<int32_t>(i)});
      }
      select_best(row, config_.index_topk);
      for (int i = 0; i < config_.index_topk; ++i) visible[t].push_back(size(row[size(i)].index));
    }
    return visible;
  }

  Rows attention(int layer_idx, const Rows& x) {
    const LayerShape shape = layer_shape(config_, layer_idx);
    const bool compressed = shape.has_compressor;
    const size_t dim = size(config_.head_dim), heads = size(config_.num_attention_heads);
    Rows latent = apply_all("attn.wq_a.weight", config_.q_lora_rank, x);
    for (Vector& row : latent) row = norm(row, "attn.q_norm.weight");
    const Rows query = apply_all("attn.wq_b.weight", static_cast<int64_t>(heads * dim), latent);
    Rows kv = apply_all("attn.wkv.weight", config_.head_dim, x);
    for (size_t t = 0; t < x.size(); ++t) {
      kv[t] = norm(kv[t], "attn.kv_norm.weight");
      rotate(kv[t].data(), dim, static_cast<int64_t>(t), compressed, false);
    }
    Rows entries;
    std::vector<std::vector<size_t>> visible(x.size());
    if (compressed) {
      entries = compress("attn.compressor", shape.compressor, x);
      visible = visible_entries(shape, x, latent, entries.size());
    }
    const Vector sink = vector("attn.attn_sink", config_.num_attention_heads);
    Rows out;
    for (size_t t = 0; t < x.size(); ++t) {
      std::vector<const Vector*> keys;
      for (size_t p = t + 1 - std::min(t + 1, size(shape.window)); p <= t; ++p)
        keys.push_back(&kv[p]);
      for (size_t i : visible[t]) keys.push_back(&entries[i]);
      Vector heads_out;
      for (size_t h = 0; h < heads; ++h) {
        const auto first = query[t].begin() + static_cast<ptrdiff_t>(h * dim);
        const Vector o = attend_head(Vector(first, first + static_cast<ptrdiff_t>(dim)), keys,
                                     sink[h], static_cast<int64_t>(t), compressed);
        heads_out.insert(heads_out.end(), o.begin(), o.end());
      }
      out.push_back(project_out(heads_out));
    }
    return out;
  }

  Vector attend_head(Vector q,
                     const std::vector<const Vector*>& keys,
                     double sink,
                     int64_t position,
                     bool compressed) const {
    const double factor = inverse_rms(q);
    for (double& value : q) value *= factor;
    rotate(q.data(), q.size(), position, compressed, false);
    double sum = std::exp(sink);
    Vector o(q.size());
    for (const Vector* key : keys) {
      const double weight = std::exp(dot(q, *key) / std::sqrt(static_cast<double>(q.size())));
      sum += weight;
      add(o, weight, *key);
    }
    for (double& value : o) value /= sum;
    rotate(o.data(), o.size(), position, compressed, true);
    return o;
  }

  Vector project_out(const Vector& heads_out) {
    const size_t groups = size(config_.o_groups), rank = size(config_.o_lora_rank);
    const size_t width = heads_out.size() / groups;
    const Rows down = matrix("attn.wo_a.weight", static_cast<int64_t>(groups * rank),
                             static_cast<int64_t>(width));
    Vector latent;
    for (size_t i = 0; i < groups * rank; ++i) {
      const auto first = heads_out.begin() + static_cast<ptrdiff_t>(i / rank * width);
      latent.push_back(dot(down[i], Vector(first, first + static_cast<ptrdiff_t>(width))));
    }
    return apply(
        matrix("attn.wo_b.weight", config_.hidden_size, static_cast<int64_t>(groups * rank)),
        latent);
  }

  Rows moe(int layer_idx, const Rows& x, const std::vector<int32_t>& tokens) {
    const size_t k = size(config_.num_experts_per_tok);
    const Rows gate = apply_all("ffn.gate.weight", config_.n_routed_experts, x);
    Rows out;
    for (size_t t = 0; t < x.size(); ++t) {
      Vector s;
      for (double g : gate[t]) s.push_back(std::sqrt(std::log1p(std::exp(g))));
      std::vector<size_t> ids(s.size());
      std::iota(ids.begin(), ids.end(), size_t{0});
      if (config_.is_hash_layer(layer_idx)) {
        const auto table = checkpoint_.load_ids(
            prefix_ + "ffn.gate.tid2eid",
            std::vector<int64_t>{config_.vocab_size, config_.num_experts_per_tok},
            config_.n_routed_experts);
        for (size_t i = 0; i < k; ++i) ids[i] = size((*table)[size(tokens[t]) * k + i]);
      } else {
        const Vector bias = vector("ffn.gate.bias", config_.n_routed_experts);
        std::stable_sort(ids.begin(), ids.end(),
                         [&](size_t a, size_t b) { return s[a] + bias[a] > s[b] + bias[b]; });
      }
      double sum = 0;
      for (size_t i = 0; i < k; ++i) sum += s[ids[i]];
      Vector y(size(config_.hidden_size));
      for (size_t i = 0; i < k; ++i) {
        add(y, config_.routed_scaling_factor * s[ids[i]] / sum,
            expert("ffn.experts." + std::to_string(ids[i]), x[t]));
      }
      add(y, 1, expert("ffn.shared_experts", x[t]));
      out.push_back(y);
    }
    return out;
  }

  Vector expert(const std::string& name, const Vector& x) {
    const int64_t hidden = config_.moe_intermediate_size;
    Vector a = apply(matrix(name + ".w1.weight", hidden, config_.hidden_size), x);
    const Vector b = apply(matrix(name + ".w3.weight", hidden, config_.hidden_size), x);
    const double limit = config_.swiglu_limit;
    for (size_t i = 0; i < a.size(); ++i) {
      const double gate = std::min(a[i], limit);
      a[i] = gate * sigmoid(gate) * std::clamp(b[i], -limit, limit);
    }
    return apply(matrix(name + ".w2.weight", config_.hidden_size, hidden), a);
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::vector<float> main_, compress_;
  std::string prefix_;
};

TEST(ReferenceForward, OddSizesOnEveryKernelVariant) {
  const std::string folder = testing::write_random_checkpoint(testing::odd_config(), 3);
  const auto checkpoint = Checkpoint::open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const ModelWeights& weights = testing::load_model(folder);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 83; ++i) tokens.push_back((i * i * 7 + i * 3 + 5) % 77);
  const Rows expected = Reference(*checkpoint).logits(tokens);
  for (const Kernels* variant : available_kernels()) {
    testing::SingleRank rank(weights, *variant);
    SequenceState state = make_sequence_state(weights.config);
    state.prompt_tokens = static_cast<int64_t>(tokens.size());
    const std::vector<float> found = rank.prefill(state, tokens, 29);
    double worst = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (size_t v = 0; v < 77; ++v) {
        worst = std::max(worst, std::abs(found[t * 77 + v] - expected[t][v]));
      }
    }
    EXPECT_LT(worst, 1e-4) << variant->name;
  }
}

}  // namespace
}  // namespace plimsoll
