#include "engine/ranks/rank_worker.h"

#include <algorithm>
#include <string>

#include "ep/stopwatch.h"

namespace plimsoll {

RankWorker::RankWorker(const ModelWeights& weights,
                       Communicator& comm,
                       const MoeLayout& layout,
                       const MoeOptions& options,
                       RankRecorder* recorder)
    : weights_(weights),
      recorder_(recorder),
      moe_(comm,
           layout,
           options,
           [this](int layer_idx, int logical_expert, std::span<const ExpertRow> rows) {
             compute_expert(layer_idx, logical_expert, rows);
           }),
      forward_(weights) {}

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
  for (int l = 0; l < weights_.config.num_hidden_layers; ++l) {
    if (Status status = run_layer(l, plan, mode, result); !status.ok()) return status;
    if (balance) append_layer(*balance, moe_.last_plan(), moe_.last_expert_counts());
    result.traffic.num_messages += moe_.last_traffic().num_messages;
    result.traffic.num_bytes += moe_.last_traffic().num_bytes;
  }
  watch = {};
  finish_segments(plan, result);
  forward_.end();
  watch.lap(seconds_.other);
  result.seconds = seconds_;
  return ok_status();
}

void RankWorker::drop(std::span<const int64_t> sequence_ids) {
  for (int64_t id : sequence_ids) sequences_.erase(id);
}

Status RankWorker::open_segments(const RankPlan& plan) {
  drop(plan.closed);
  for (const ArrivedSequence& sequence : plan.arrived) {
    sequences_.insert_or_assign(sequence.sequence_id, std::move(*sequence.state));
  }
  segments_.clear();
  for (const SegmentPlan& segment : plan.segments) {
    const auto [sequence, is_new] = sequences_.try_emplace(segment.sequence_id);
    if (is_new) {
      sequence->second = make_sequence_state(weights_.config);
      sequence->second.prompt_tokens = segment.prompt_tokens;
      sequence->second.padding_tokens = segment.padding_tokens;
    }
    if (sequence->second.num_tokens != segment.first_position) {
      return invalid_argument("sequence " + std::to_string(segment.sequence_id) + " holds " +
                              std::to_string(sequence->second.num_tokens) +
                              " tokens, but the step continues it at position " +
                              std::to_string(segment.first_position));
    }
    segments_.push_back({&sequence->second, segment.tokens});
  }
  return forward_.begin(segments_);
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

void RankWorker::hand_over_layer(int layer_idx, const RankPlan& plan) {
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    if (!plan.segments[i].hand_over || !layer_sink_) continue;
    std::vector<std::byte> record;
    serialize_layer(weights_.config, *segments_[i].state, layer_idx, record);
    layer_sink_(plan.segments[i].sequence_id, layer_idx, std::move(record));
  }
}

Status RankWorker::run_layer(int layer_idx,
                             const RankPlan& plan,
                             StepMode mode,
                             RankResult& result) {
  Stopwatch watch;
  forward_.attention(layer_idx);
  watch.lap(seconds_.attention);
  hand_over_layer(layer_idx, plan);
  const GateResult gate = forward_.gate(layer_idx);
  const int32_t* ids = gate.topk_ids;
  if (recorder_) {
    const size_t num_ids =
        static_cast<size_t>(gate.num_tokens) * weights_.config.num_experts_per_tok;
    recorder_->record_layer(layer_idx, {ids, num_ids});
  }
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const size_t num_ids = plan.segments[i].tokens.size() * weights_.config.num_experts_per_tok;
    if (plan.segments[i].return_expert_ids) {
      std::vector<int32_t>& all = result.segments[i].expert_ids;
      all.insert(all.end(), ids, ids + num_ids);
    }
    ids += num_ids;
  }
  moe_out_.resize(static_cast<size_t>(gate.num_tokens) * weights_.config.hidden_size);
  watch.lap(seconds_.other);

  const MoeTokens tokens{gate.num_tokens, gate.rows, gate.topk_ids, gate.topk_weights};
  if (Status status = moe_.run(layer_idx, mode, tokens, moe_out_.data()); !status.ok()) {
    return status;
  }
  const MoeSeconds moe_seconds = moe_.take_seconds();
  seconds_.routing += moe_seconds.routing;
  seconds_.dispatch += moe_seconds.dispatch;
  seconds_.experts += moe_seconds.experts;
  seconds_.combine += moe_seconds.combine;
  result.expert_times += moe_.take_expert_times();

  watch = {};
  forward_.finish_moe(layer_idx, moe_out_.data());
  watch.lap(seconds_.other);
  return ok_status();
}

void RankWorker::compute_expert(int layer_idx,
                                int logical_expert,
                                std::span<const ExpertRow> rows) {
  const LayerWeights& layer = weights_.layers[layer_idx];
  expert_rows(logical_expert == kSharedExpert ? layer.shared_expert : layer.experts[logical_expert],
              weights_.config.swiglu_limit, rows, expert_scratch_);
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
void RankWorker::finish_segments(const RankPlan& plan, RankResult& result) {
  constexpr size_t kBlockRows = 64;
  const size_t vocab_size = weights_.config.vocab_size;
  list_wanted_rows(plan);
  std::vector<int32_t> rows;
  for (size_t begin = 0; begin < wanted_.size(); begin += kBlockRows) {
    const size_t end = std::min(begin + kBlockRows, wanted_.size());
    rows.clear();
    for (size_t i = begin; i < end; ++i) rows.push_back(wanted_[i].row);
    logits_.resize(rows.size() * vocab_size);
    forward_.logits(rows, logits_.data());
    for (size_t i = begin; i < end; ++i) {
      use_logits(plan.segments[wanted_[i].segment], wanted_[i].token_idx,
                 std::span(logits_).subspan((i - begin) * vocab_size, vocab_size),
                 result.segments[wanted_[i].segment]);
    }
  }
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
