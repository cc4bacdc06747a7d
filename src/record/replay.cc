#include "plimsoll/replay.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "balance/random.h"
#include "balance/route/quotas.h"
#include "record/layer_run.h"

namespace plimsoll {
namespace {

// The tokens of a batch, by their place in the trace; those of source rank s are the run
// [s * size / num_ranks, (s + 1) * size / num_ranks).
struct Batch {
  std::span<const uint32_t> tokens;
  std::span<const uint32_t> of_source(int source, int num_ranks) const {
    const size_t begin = tokens.size() * source / num_ranks;
    return tokens.subspan(begin, tokens.size() * (source + 1) / num_ranks - begin);
  }
};

std::vector<uint32_t> token_order(int64_t num_tokens, const ReplayOptions& options) {
  std::vector<uint32_t> order(num_tokens);
  std::iota(order.begin(), order.end(), 0);
  if (!options.shuffle) return order;
  SplitMix64 random{options.seed};
  for (uint32_t i = static_cast<uint32_t>(num_tokens); i > 1; --i) {
    std::swap(order[i - 1], order[random.below(i)]);
  }
  return order;
}

// One layer of a whole trace.
class TraceLayer {
 public:
  TraceLayer(const ExpertTrace& trace, int layer_idx, LayerRun& run)
      : trace_(trace), layer_idx_(layer_idx), run_(run), last_visit_(run.num_ranks(), 0) {}

  Status add(const Batch& batch) {
    count(batch);
    if (Status done = run_.route_batch(); !done.ok()) return done;
    const RouteTables* tables = run_.tables();
    for (int source = 0; tables != nullptr && source < run_.num_ranks(); ++source) {
      if (Status done = deal(*tables, batch, source); !done.ok()) return done;
    }
    run_.add_samples();
    return ok_status();
  }

 private:
  std::span<const int16_t> chosen(uint32_t token) const {
    const size_t row = (size_t{token} * trace_.num_layers + layer_idx_) * trace_.top_k;
    return std::span(trace_.ids).subspan(row, trace_.top_k);
  }

  void count(const Batch& batch) {
    std::ranges::fill(run_.counts, 0);
    for (int source = 0; source < run_.num_ranks(); ++source) {
      int32_t* counts = run_.counts.data() + size_t(source) * run_.num_experts();
      int32_t active = 0;
      for (const uint32_t token : batch.of_source(source, run_.num_ranks())) {
        bool any = false;
        for (const int16_t expert : chosen(token)) {
          if (expert < 0) continue;
          ++counts[expert];
          any = true;
        }
        active += any;
      }
      run_.active_tokens[source] = active;
    }
  }

  // Deals the quotas of one source out to its tokens, and counts the ranks that each is sent to.
  Status deal(const RouteTables& tables, const Batch& batch, int source) {
    const auto tokens = batch.of_source(source, run_.num_ranks());
    const int k = trace_.top_k;
    const int num_shared = tables.options.num_shared_experts;
    topk_ids_.clear();
    for (const uint32_t token : tokens) {
      const auto ids = chosen(token);
      topk_ids_.insert(topk_ids_.end(), ids.begin(), ids.end());
    }
    physical_ids_.resize(topk_ids_.size());
    shared_ranks_.resize(tokens.size() * num_shared);
    Status done = assign(tables, run_.plan(), source, topk_ids_, k, run_.workspace(), physical_ids_,
                         shared_ranks_);
    if (done.ok() && draws_shared(tables.options)) {
      done = enter_shared_ranks(tables, source, shared_ranks_, run_.plan());
    }
    if (!done.ok()) return done;
    const int slots_per_rank = tables.num_slots / run_.num_ranks();
    for (size_t t = 0; t < tokens.size(); ++t) {
      ++visit_;
      last_visit_[source] = visit_;
      for (int i = 0; i < k; ++i) {
        const int32_t slot = physical_ids_[t * k + i];
        if (slot >= 0) visit(slot / slots_per_rank);
      }
      for (int i = 0; i < num_shared; ++i) {
        const int32_t rank = shared_ranks_[t * num_shared + i];
        if (rank >= 0) visit(rank);
      }
    }
    return done;
  }

  void visit(int rank) {
    run_.samples.num_messages += last_visit_[rank] != visit_;
    last_visit_[rank] = visit_;
  }

  const ExpertTrace& trace_;
  int layer_idx_;
  LayerRun& run_;
  std::vector<int32_t> topk_ids_, physical_ids_, shared_ranks_;
  std::vector<int64_t> last_visit_;  // [num_ranks], the token that was there last
  int64_t visit_ = 0;
};

// Spreads each count over the source ranks; what does not divide goes to ranks in turn.
void spread_counts(std::span<const int64_t> step, int top_k, LayerRun& run) {
  const int num_ranks = run.num_ranks();
  const int num_experts = run.num_experts();
  int64_t total = 0;
  int next = 0;
  for (int e = 0; e < num_experts; ++e) {
    total += step[e];
    for (int s = 0; s < num_ranks; ++s) {
      run.counts[size_t(s) * num_experts + e] = static_cast<int32_t>(step[e] / num_ranks);
    }
    for (int64_t left = step[e] % num_ranks; left > 0; --left) {
      ++run.counts[size_t(next) * num_experts + e];
      next = (next + 1) % num_ranks;
    }
  }
  const int64_t num_tokens = (total + top_k - 1) / top_k;
  for (int s = 0; s < num_ranks; ++s) {
    run.active_tokens[s] =
        static_cast<int32_t>(num_tokens * (s + 1) / num_ranks - num_tokens * s / num_ranks);
  }
}

Quantiles quantiles_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto at = [&](double share) {
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values[std::max<size_t>(rank, 1) - 1];
  };
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {sum / static_cast<double>(values.size()), at(0.5), at(0.99), values.back()};
}

// Runs `work` for every layer, on several threads; fails as the first layer that failed.
Result<std::vector<LayerSamples>> run_layers(
    const Placement& placement,
    const RouteOptions& route,
    const ReplayOptions& options,
    const ReplayProgress& progress,
    const std::function<Status(int layer_idx, LayerRun& run)>& work) {
  const int num_layers = placement.num_layers;
  std::vector<LayerSamples> samples(num_layers);
  std::vector<std::optional<Error>> errors(num_layers);
  std::atomic<int> next_layer = 0;
  std::mutex progress_mutex;
  int num_done = 0;
  const auto run_layer = [&](int l) -> Result<LayerSamples> {
    Result<LayerRun> made = LayerRun::make(placement, l, route, options);
    if (!made.ok()) return made.error();
    LayerRun& run = *made;
    if (Status done = work(l, run); !done.ok()) return done.error();
    return std::move(run.samples);
  };
  const auto run_some = [&] {
    for (int l = next_layer++; l < num_layers; l = next_layer++) {
      Result<LayerSamples> layer = run_layer(l);
      if (layer.ok()) {
        samples[l] = std::move(*layer);
      } else {
        errors[l] = layer.error();
      }
      const std::lock_guard lock(progress_mutex);
      ++num_done;
      if (progress) progress(num_done, num_layers);
    }
  };
  std::vector<std::jthread> helpers;
  for (int t = 1; t < std::min(options.num_threads, num_layers); ++t)
    helpers.emplace_back(run_some);
  run_some();
  helpers.clear();
  for (const std::optional<Error>& error : errors) {
    if (error) return *error;
  }
  return samples;
}

Replay summarise(const std::vector<LayerSamples>& samples,
                 int64_t num_batches,
                 int64_t num_tokens) {
  Replay replay;
  ReplayStats& stats = replay.stats;
  stats.num_batches = num_batches;
  stats.num_tokens = num_tokens;
  LayerSamples all;
  for (const LayerSamples& layer : samples) {
    const auto& ratios = layer.max_over_mean;
    const auto& bounds = layer.bound_over_mean;
    all.max_over_mean.insert(all.max_over_mean.end(), ratios.begin(), ratios.end());
    all.bound_over_mean.insert(all.bound_over_mean.end(), bounds.begin(), bounds.end());
    all.sum_max += layer.sum_max;
    all.sum_mean += layer.sum_mean;
    all.sum_balancedness += layer.sum_balancedness;
    all.num_messages += layer.num_messages;
    all.num_pairs += layer.num_pairs;
    all.num_remote_pairs += layer.num_remote_pairs;
    all.num_copies += layer.num_copies;
    all.min_copies += layer.min_copies;
    all.standing_ns += layer.standing_ns;
    all.predicted_ns += layer.predicted_ns;
    replay.layers.push_back({quantiles_of(ratios), quantiles_of(bounds).mean, layer.rank_load});
  }
  if (all.max_over_mean.empty()) return replay;
  const auto num_samples = static_cast<double>(all.max_over_mean.size());
  const auto num_token_layers =
      static_cast<double>(num_tokens) * static_cast<double>(samples.size());
  stats.max_over_mean = quantiles_of(all.max_over_mean);
  stats.bound_over_mean = quantiles_of(all.bound_over_mean);
  stats.time_weighted = all.sum_max / all.sum_mean;
  stats.balancedness = all.sum_balancedness / num_samples;
  stats.imbalance_ratio = stats.max_over_mean.mean - 1;
  stats.messages_per_token = static_cast<double>(all.num_messages) / num_token_layers;
  stats.copies_per_batch = static_cast<double>(all.num_copies) / num_samples;
  stats.fewest_copies_per_batch = static_cast<double>(all.min_copies) / num_samples;
  if (all.standing_ns > 0) {
    stats.time_with_copies =
        static_cast<double>(all.predicted_ns) / static_cast<double>(all.standing_ns);
  }
  stats.local_share =
      1 - static_cast<double>(all.num_remote_pairs) / static_cast<double>(all.num_pairs);
  return replay;
}

// A rule for copies says what the ranks hold, not which token goes where.
void forget_messages(ReplayStats& stats) {
  stats.messages_per_token = stats.local_share = stats.fewest_copies_per_batch =
      std::numeric_limits<double>::quiet_NaN();
}

Status check_same_shape(int num_layers, int num_experts, const Placement& placement) {
  if (Status valid = validate(placement); !valid.ok()) return valid;
  if (num_layers == placement.num_layers && num_experts == placement.num_logical_experts) {
    return ok_status();
  }
  return invalid_argument("the traffic has " + std::to_string(num_layers) + " layers of " +
                          std::to_string(num_experts) + " experts, but the placement has " +
                          std::to_string(placement.num_layers) + " of " +
                          std::to_string(placement.num_logical_experts));
}

}  // namespace

Result<Replay> replay(const ExpertTrace& trace,
                      const Placement& placement,
                      const RouteOptions& route,
                      const ReplayOptions& options,
                      const ReplayProgress& progress) {
  Status same = check_same_shape(trace.num_layers, trace.num_logical_experts, placement);
  if (!same.ok()) return same.error();
  if (options.batch_tokens < 1 || trace.num_tokens() < 1 || trace.num_tokens() > UINT32_MAX) {
    return invalid_argument(
        "a replay needs batches of at least one token and a trace of 1 to 2^32 "
        "tokens");
  }
  const std::vector<uint32_t> order = token_order(trace.num_tokens(), options);
  const int64_t batch_tokens = std::min(options.batch_tokens, trace.num_tokens());
  const int64_t num_batches = trace.num_tokens() / batch_tokens;
  const auto samples =
      run_layers(placement, route, options, progress, [&](int layer_idx, LayerRun& run) {
        TraceLayer layer(trace, layer_idx, run);
        for (int64_t b = 0; b < num_batches; ++b) {
          const auto tokens = std::span(order).subspan(b * batch_tokens, batch_tokens);
          if (Status done = layer.add({tokens}); !done.ok()) return done;
        }
        return ok_status();
      });
  if (!samples.ok()) return samples.error();
  Replay result = summarise(*samples, num_batches, num_batches * batch_tokens);
  if (options.jit_rule) forget_messages(result.stats);
  return result;
}

Result<Replay> replay(const LoadHistory& load,
                      int top_k,
                      const Placement& placement,
                      const RouteOptions& route,
                      const ReplayOptions& options,
                      const ReplayProgress& progress) {
  Status same = check_same_shape(load.num_layers, load.num_logical_experts, placement);
  if (!same.ok()) return same.error();
  if (top_k < 1 || std::ranges::any_of(load.counts, [](int64_t n) { return n > INT32_MAX; })) {
    return invalid_argument(
        "a replay of counts needs a top-k of at least 1, and counts below 2^31; "
        "record steps apart, not their sum");
  }
  if (draws_shared(route)) {
    return invalid_argument(
        "SGLang's waterfill draws for every token, and counts do not know tokens; replay a trace");
  }
  const size_t num_experts = load.num_logical_experts;
  const auto samples =
      run_layers(placement, route, options, progress, [&](int layer_idx, LayerRun& run) {
        for (int step = 0; step < load.num_steps; ++step) {
          const size_t row = (size_t(step) * load.num_layers + layer_idx) * num_experts;
          spread_counts(std::span(load.counts).subspan(row, num_experts), top_k, run);
          if (Status done = run.route_batch(); !done.ok()) return done;
          run.add_samples();
        }
        return ok_status();
      });
  if (!samples.ok()) return samples.error();
  const int64_t total = std::accumulate(load.counts.begin(), load.counts.end(), int64_t{0});
  Replay result = summarise(*samples, load.num_steps, total / top_k / load.num_layers);
  result.stats.messages_per_token = std::numeric_limits<double>::quiet_NaN();
  if (options.jit_rule) forget_messages(result.stats);
  return result;
}

}  // namespace plimsoll
