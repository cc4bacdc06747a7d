#include "ep/moe_rank.h"

#include <algorithm>

#include "ep/stopwatch.h"

namespace plimsoll {

MoeRank::MoeRank(Communicator& comm,
                 const MoeLayout& layout,
                 const MoeOptions& options,
                 ExpertCompute compute)
    : comm_(comm),
      layout_(layout),
      options_(options),
      compute_(std::move(compute)),
      num_columns_(options.top_k + (options.route.waterfill ? 1 : 0)),
      workspace_(layout.tables.front()),
      plan_(layout.tables.front()),
      normal_(
          comm, layout.tables.front().slots_per_rank() + 1, options.backend == A2aBackend::kNone),
      my_counts_(layout.placement.num_logical_experts + 1),
      all_counts_(my_counts_.size() * comm.num_ranks()),
      counts_(static_cast<size_t>(comm.num_ranks()) * layout.placement.num_logical_experts),
      active_(comm.num_ranks()) {}

Status MoeRank::run(int layer_idx, StepMode mode, const MoeTokens& tokens, float* out) {
  Stopwatch watch;
  if (Status status = choose_targets(layer_idx, tokens); !status.ok()) return status;
  watch.lap(seconds_.routing);
  if (mode == StepMode::kNormal || options_.backend == A2aBackend::kNone) {
    return exchange(layer_idx, tokens, normal_, out);
  }
  if (!low_latency_) {
    low_latency_ = std::make_unique<LowLatencyExchange>(
        comm_, layout_.tables.front().slots_per_rank() + 1, options_.max_dispatch_tokens_per_rank,
        options_.hidden_size);
  }
  return exchange(layer_idx, tokens, *low_latency_, out);
}

// Gathers every rank's counts, solves the routing (all ranks get the same answer) and applies it
// here.
Status MoeRank::choose_targets(int layer_idx, const MoeTokens& tokens) {
  const int num_experts = layout_.placement.num_logical_experts;
  const size_t num_choices = static_cast<size_t>(tokens.num_tokens) * options_.top_k;
  std::ranges::fill(my_counts_, 0);
  for (size_t i = 0; i < num_choices; ++i) ++my_counts_[tokens.topk_ids[i]];
  my_counts_[num_experts] = tokens.num_tokens;
  if (Status status = comm_.all_gather(my_counts_, all_counts_); !status.ok()) return status;
  for (int r = 0; r < comm_.num_ranks(); ++r) {
    const auto row = all_counts_.begin() + r * (num_experts + 1);
    std::copy_n(row, num_experts, counts_.begin() + r * num_experts);
    active_[r] = row[num_experts];
  }

  const JitTables& tables = layout_.tables[layer_idx];
  if (Status status = jit_route(tables, counts_, active_, workspace_, plan_); !status.ok()) {
    return status;
  }
  physical_ids_.resize(num_choices);
  shared_ranks_.resize(tokens.num_tokens);
  if (Status status = assign(tables_in_use(tables, workspace_, plan_), plan_.route, comm_.rank(),
                             {tokens.topk_ids, num_choices}, options_.top_k, workspace_.route,
                             physical_ids_, shared_ranks_);
      !status.ok()) {
    return status;
  }
  set_targets(tokens);
  return ok_status();
}

// Turns slots into ranks and their local slots, the columns of the exchange.
void MoeRank::set_targets(const MoeTokens& tokens) {
  const int slots_per_rank = layout_.tables.front().slots_per_rank();
  targets_.resize(static_cast<size_t>(tokens.num_tokens) * num_columns_);
  weights_.resize(targets_.size());
  for (int t = 0; t < tokens.num_tokens; ++t) {
    Target* target = targets_.data() + static_cast<size_t>(t) * num_columns_;
    float* weight = weights_.data() + static_cast<size_t>(t) * num_columns_;
    for (int j = 0; j < options_.top_k; ++j) {
      const int32_t slot = physical_ids_[static_cast<size_t>(t) * options_.top_k + j];
      target[j] = {slot / slots_per_rank, slot % slots_per_rank};
      weight[j] = tokens.topk_weights[static_cast<size_t>(t) * options_.top_k + j];
    }
    if (options_.route.waterfill) {
      target[options_.top_k] = {shared_ranks_[t], slots_per_rank};
      weight[options_.top_k] = 1;
    }
  }
}

template <typename Exchange>
Status MoeRank::exchange(int layer_idx, const MoeTokens& tokens, Exchange& exchange, float* out) {
  Stopwatch watch;
  const DispatchInput input{.num_tokens = tokens.num_tokens,
                            .num_columns = num_columns_,
                            .hidden_size = options_.hidden_size,
                            .rows = tokens.rows,
                            .weights = weights_,
                            .targets = targets_};
  if (Status status = exchange.dispatch(input); !status.ok()) return status;
  watch.lap(seconds_.dispatch);
  // Rows travel meanwhile.
  if (!options_.route.waterfill) compute_shared_at_home(layer_idx, tokens);
  watch.lap(seconds_.experts);
  if (Status status = exchange.receive(work_); !status.ok()) return status;
  watch.lap(seconds_.dispatch);
  compute_experts(layer_idx);
  watch.lap(seconds_.experts);
  results_.resize(targets_.size());
  if (Status status = exchange.combine(results_); !status.ok()) return status;
  sum_results(tokens.num_tokens, out);
  traffic_ = exchange.traffic();
  watch.lap(seconds_.combine);
  return ok_status();
}

// The expert in one of this rank's slots: the placement's, or after those a copy just in time.
// Ranks of one process read an expert where it lies, so a copy moves nothing.
int MoeRank::expert_in(int layer_idx, int slot) const {
  const JitTables& tables = layout_.tables[layer_idx];
  const int standing = tables.standing_slots_per_rank;
  if (slot < standing) return layout_.placement.layer(layer_idx)[comm_.rank() * standing + slot];
  const int32_t wide = comm_.rank() * tables.slots_per_rank() + slot;
  return std::ranges::find(plan_.copies, wide, &JitCopy::slot)->expert;
}

void MoeRank::compute_experts(int layer_idx) {
  const double start = thread_cpu_seconds();
  int64_t num_experts = 0;
  const int slots_per_rank = layout_.tables.front().slots_per_rank();
  for (int s = 0; s <= slots_per_rank; ++s) {
    const auto rows = std::span<const ExpertRow>(work_.rows)
                          .subspan(work_.first[s], work_.first[s + 1] - work_.first[s]);
    if (rows.empty()) continue;
    compute_(layer_idx, s < slots_per_rank ? expert_in(layer_idx, s) : kSharedExpert, rows);
    ++num_experts;
  }
  const auto num_tokens = static_cast<int64_t>(work_.rows.size());
  expert_times_.add(num_experts, num_tokens, thread_cpu_seconds() - start);
}

void MoeRank::compute_shared_at_home(int layer_idx, const MoeTokens& tokens) {
  const double start = thread_cpu_seconds();
  shared_at_home_.resize(static_cast<size_t>(tokens.num_tokens) * options_.hidden_size);
  work_.rows.resize(tokens.num_tokens);
  for (int t = 0; t < tokens.num_tokens; ++t) {
    const size_t offset = static_cast<size_t>(t) * options_.hidden_size;
    work_.rows[t] = {tokens.rows + offset, 1, shared_at_home_.data() + offset};
  }
  if (tokens.num_tokens > 0) compute_(layer_idx, kSharedExpert, work_.rows);
  expert_times_.add(1, tokens.num_tokens, thread_cpu_seconds() - start);
}

void MoeRank::sum_results(int num_tokens, float* out) const {
  const int hidden_size = options_.hidden_size;
  for (int t = 0; t < num_tokens; ++t) {
    const float* const* results = results_.data() + static_cast<size_t>(t) * num_columns_;
    float* sum = out + static_cast<size_t>(t) * hidden_size;
    const auto add = [&](const float* row) {
      for (int i = 0; i < hidden_size; ++i) sum[i] += row[i];
    };
    std::copy_n(results[0], hidden_size, sum);
    for (int j = 1; j < num_columns_; ++j) add(results[j]);
    if (!options_.route.waterfill)
      add(shared_at_home_.data() + static_cast<size_t>(t) * hidden_size);
  }
}

}  // namespace plimsoll
