#include "ep/moe_rank.h"

#include <algorithm>
#include <array>

#include "ep/stopwatch.h"

namespace plimsoll {

MoeRank::MoeRank(Communicator& comm,
                 const MoeLayout& layout,
                 const MoeOptions& options,
                 MoeCompute& compute)
    : comm_(comm),
      layout_(layout),
      options_(options),
      compute_(compute),
      num_columns_(options.top_k + (options.route.waterfill ? 1 : 0)),
      workspace_(layout.tables.front()),
      plan_(layout.tables.front()),
      normal_(
          comm, layout.tables.front().slots_per_rank() + 1, options.backend == A2aBackend::kNone),
      in_place_(comm, layout.tables.front().slots_per_rank() + 1),
      my_counts_(layout.placement.num_logical_experts + 1),
      all_counts_(my_counts_.size() * comm.num_ranks()),
      counts_(static_cast<size_t>(comm.num_ranks()) * layout.placement.num_logical_experts),
      active_(comm.num_ranks()) {}

Status MoeRank::run(int layer_idx, StepMode mode, const MoeTokens& tokens, float* out) {
  Stopwatch watch;
  if (Status status = choose_targets(layer_idx, tokens); !status.ok()) return status;
  watch.lap(seconds_.routing);
  if (compute_.reaches_all_rows()) return exchange(layer_idx, tokens, in_place_, out);
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
  const DispatchInput input{
      .num_tokens = tokens.num_tokens,
      .num_columns = num_columns_,
      .hidden_size = options_.hidden_size,
      .rows = tokens.rows,
      .weights = weights_,
      .targets = targets_,
      .results = compute_.reaches_all_rows() ? compute_.result_rows(targets_.size()) : nullptr};
  if (Status status = exchange.dispatch(input); !status.ok()) return status;
  watch.lap(seconds_.dispatch);
  // Rows travel meanwhile.
  if (!options_.route.waterfill) {
    if (Status status = compute_shared_at_home(layer_idx, tokens); !status.ok()) return status;
  }
  watch.lap(seconds_.experts);
  if (Status status = exchange.receive(work_); !status.ok()) return status;
  watch.lap(seconds_.dispatch);
  if (Status status = compute_experts(layer_idx); !status.ok()) return status;
  watch.lap(seconds_.experts);
  results_.resize(targets_.size());
  if (Status status = exchange.combine(results_); !status.ok()) return status;
  if (Status status = compute_.sum_results(results_, tokens.num_tokens, shared_at_home_, out);
      !status.ok()) {
    return status;
  }
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

Status MoeRank::compute_experts(int layer_idx) {
  const double start = thread_cpu_seconds();
  const int slots_per_rank = layout_.tables.front().slots_per_rank();
  int64_t num_experts = 0;
  slots_.assign(slots_per_rank + 1, kSharedExpert);
  for (int s = 0; s <= slots_per_rank; ++s) {
    if (work_.first[s] == work_.first[s + 1]) continue;
    if (s < slots_per_rank) slots_[s] = expert_in(layer_idx, s);
    ++num_experts;
  }
  if (num_experts > 0) {
    const Status status = compute_.compute_experts(layer_idx, slots_, work_);
    if (!status.ok()) return status;
  }
  const auto num_tokens = static_cast<int64_t>(work_.rows.size());
  expert_times_.add(num_experts, num_tokens, thread_cpu_seconds() - start);
  return ok_status();
}

Status MoeRank::compute_shared_at_home(int layer_idx, const MoeTokens& tokens) {
  const double start = thread_cpu_seconds();
  float* const out = compute_.shared_rows(tokens.num_tokens);
  shared_at_home_ = out;
  work_.rows.resize(tokens.num_tokens);
  work_.first.assign({0, tokens.num_tokens});
  for (int t = 0; t < tokens.num_tokens; ++t) {
    const size_t offset = static_cast<size_t>(t) * options_.hidden_size;
    work_.rows[t] = {tokens.rows + offset, 1, out + offset};
  }
  if (tokens.num_tokens > 0) {
    const std::array slots = {int32_t{kSharedExpert}};
    const Status status = compute_.compute_experts(layer_idx, slots, work_);
    if (!status.ok()) return status;
  }
  expert_times_.add(1, tokens.num_tokens, thread_cpu_seconds() - start);
  return ok_status();
}

}  // namespace plimsoll
