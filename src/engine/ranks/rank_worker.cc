#include "engine/ranks/rank_worker.h"

#include <algorithm>

#include "ep/stopwatch.h"

namespace plimsoll {

RankWorker::RankWorker(const ModelConfig& config,
                       std::unique_ptr<RankCompute> compute,
                       Communicator& comm,
                       const MoeLayout& layout,
                       const MoeOptions& options,
                       RankRecorder* recorder)
    : config_(config),
      recorder_(recorder),
      compute_(std::move(compute)),
      moe_(comm, layout, options, *compute_) {}

Status RankWorker::run(const RankPlan& plan,
                       StepMode mode,
                       RankResult& result,
                       StepBalance* balance) {
  Stopwatch watch;
  seconds_ = {};
  result = {};
  result.segments.resize(plan.segments.size());
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    result.segments[i].sequence_id = plan.segments[i].sequence_id;
  }
  if (Status status = open_segments(plan); !status.ok()) return status;
  if (recorder_) begin_recording(plan);
  watch.lap(seconds_.other);
  for (int l = 0; l < config_.num_hidden_layers; ++l) {
    if (Status status = run_layer(l, plan, mode, result); !status.ok()) return status;
    if (balance) append_layer(*balance, moe_.last_plan(), moe_.last_expert_counts());
    result.traffic.num_messages += moe_.last_traffic().num_messages;
    result.traffic.num_bytes += moe_.last_traffic().num_bytes;
  }
  watch = {};
  if (Status status = finish_segments(plan, result); !status.ok()) return status;
  compute_->end();
  watch.lap(seconds_.other);
  result.seconds = seconds_;
  return ok_status();
}

Status RankWorker::open_segments(const RankPlan& plan) {
  drop(plan.closed);
  for (const ArrivedSequence& sequence : plan.arrived) {
    const Status taken = compute_->take_over(sequence.sequence_id, std::move(*sequence.state));
    if (!taken.ok()) return taken;
  }
  return compute_->begin(plan.segments);
}

void RankWorker::begin_recording(const RankPlan& plan) {
  input_ids_.clear();
  positions_.clear();
  prompt_lens_.clear();
  bool any_prompt = false;
  for (const SegmentPlan& segment : plan.segments) {
    input_ids_.insert(input_ids_.end(), segment.tokens.begin(), segment.tokens.end());
    for (size_t i = 0; i < segment.tokens.size(); ++i) {
      positions_.push_back(static_cast<int32_t>(segment.first_position + static_cast<int64_t>(i)));
    }
    prompt_lens_.push_back(static_cast<int32_t>(segment.tokens.size()));
    any_prompt = any_prompt || segment.is_prompt;
  }
  if (!any_prompt) prompt_lens_.clear();
  recorder_->begin_pass(
      {.input_ids = input_ids_, .positions = positions_, .extend_seq_lens = prompt_lens_});
}

Status RankWorker::hand_over_layer(int layer_idx, const RankPlan& plan) {
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    if (!plan.segments[i].hand_over || !layer_sink_) continue;
    Result<std::vector<std::byte>> record = compute_->layer_record(static_cast<int>(i), layer_idx);
    if (!record.ok()) return record.error();
    layer_sink_(plan.segments[i].sequence_id, layer_idx, std::move(*record));
  }
  return ok_status();
}

Status RankWorker::run_layer(int layer_idx,
                             const RankPlan& plan,
                             StepMode mode,
                             RankResult& result) {
  Stopwatch watch;
  if (Status status = compute_->attention(layer_idx); !status.ok()) return status;
  watch.lap(seconds_.attention);
  if (Status status = hand_over_layer(layer_idx, plan); !status.ok()) return status;
  const Result<MoeTokens> tokens = compute_->gate(layer_idx);
  if (!tokens.ok()) return tokens.error();
  const int32_t* ids = tokens->topk_ids;
  if (recorder_) {
    const size_t num_ids = static_cast<size_t>(tokens->num_tokens) * config_.num_experts_per_tok;
    recorder_->record_layer(layer_idx, {ids, num_ids});
  }
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const size_t num_ids = plan.segments[i].tokens.size() * config_.num_experts_per_tok;
    if (plan.segments[i].return_expert_ids) {
      std::vector<int32_t>& all = result.segments[i].expert_ids;
      all.insert(all.end(), ids, ids + num_ids);
    }
    ids += num_ids;
  }
  watch.lap(seconds_.other);

  if (Status status = moe_.run(layer_idx, mode, *tokens, compute_->moe_rows()); !status.ok()) {
    return status;
  }
  const MoeSeconds moe_seconds = moe_.take_seconds();
  seconds_.routing += moe_seconds.routing;
  seconds_.dispatch += moe_seconds.dispatch;
  seconds_.experts += moe_seconds.experts;
  seconds_.combine += moe_seconds.combine;
  result.expert_times += moe_.take_expert_times();

  watch = {};
  const Status finished = compute_->finish_moe(layer_idx);
  watch.lap(seconds_.other);
  return finished;
}

// Lists the rows of the step whose logits somebody wants, in order.
void RankWorker::list_wanted_rows(const RankPlan& plan) {
  wanted_.clear();
  int first_row = 0;
  for (size_t s = 0; s < plan.segments.size(); ++s) {
    const SegmentPlan& segment = plan.segments[s];
    const int num_tokens = static_cast<int>(segment.tokens.size());
    for (int i = 0; i < num_tokens; ++i) {
      const bool wanted = i < static_cast<int>(segment.targets.size()) ||
                          (segment.sample && i == num_tokens - 1) ||
                          std::ranges::binary_search(segment.logits_rows, i);
      if (wanted) wanted_.push_back({first_row + i, static_cast<int>(s), i});
    }
    first_row += num_tokens;
  }
}

// Computes logits a block of rows at a time: each pass over the head's weights serves the whole
// block.
Status RankWorker::finish_segments(const RankPlan& plan, RankResult& result) {
  constexpr size_t kBlockRows = 64;
  const size_t vocab_size = config_.vocab_size;
  list_wanted_rows(plan);
  std::vector<int32_t> rows;
  for (size_t begin = 0; begin < wanted_.size(); begin += kBlockRows) {
    const size_t end = std::min(begin + kBlockRows, wanted_.size());
    rows.clear();
    for (size_t i = begin; i < end; ++i) rows.push_back(wanted_[i].row);
    logits_.resize(rows.size() * vocab_size);
    if (Status status = compute_->logits(rows, logits_.data()); !status.ok()) return status;
    for (size_t i = begin; i < end; ++i) {
      use_logits(plan.segments[wanted_[i].segment], wanted_[i].token_idx,
                 std::span(logits_).subspan((i - begin) * vocab_size, vocab_size),
                 result.segments[wanted_[i].segment]);
    }
  }
  return ok_status();
}

void RankWorker::use_logits(const SegmentPlan& plan,
                            int token_idx,
                            std::span<float> logits,
                            SegmentResult& result) {
  if (std::ranges::binary_search(plan.logits_rows, token_idx)) {
    result.logits.insert(result.logits.end(), logits.begin(), logits.end());
  }
  if (token_idx < static_cast<int>(plan.targets.size())) {
    const double normaliser = log_sum_exp(logits);
    result.nll.push_back(static_cast<float>(normaliser - logits[plan.targets[token_idx]]));
    if (plan.num_top_logprobs > 0) {
      const auto top = top_logprobs(logits, plan.num_top_logprobs, normaliser);
      result.target_top.insert(result.target_top.end(), top.begin(), top.end());
    }
  }
  const int num_tokens = static_cast<int>(plan.tokens.size());
  if (plan.sample && token_idx == num_tokens - 1) {
    result.next = sample_token(logits, plan.sampling, plan.generated,
                               plan.first_position + num_tokens, plan.num_top_logprobs);
  }
}

}  // namespace plimsoll
