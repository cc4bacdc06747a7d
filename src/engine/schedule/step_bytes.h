// The fields of what processes tell each other about a step, for byte_stream.h.
#pragma once

#include "comm/byte_stream.h"
#include "engine/schedule/step.h"
#include "plimsoll/recording.h"

namespace plimsoll {

template <typename Stream>
void transfer(Stream& stream, SamplingParams& params) {
  stream(params.temperature, params.top_p, params.top_k, params.min_p, params.presence_penalty,
         params.frequency_penalty, params.seed);
}

template <typename Stream>
void transfer(Stream& stream, TokenLogprob& token) {
  stream(token.token, token.logprob);
}

template <typename Stream>
void transfer(Stream& stream, SampledToken& token) {
  stream(token.token, token.logprob, token.top);
}

template <typename Stream>
void transfer(Stream& stream, SegmentPlan& plan) {
  stream(plan.sequence_id, plan.tokens, plan.first_position, plan.prompt_tokens,
         plan.padding_tokens, plan.is_prompt, plan.sample, plan.sampling, plan.num_top_logprobs,
         plan.generated, plan.logits_rows, plan.targets, plan.return_expert_ids);
}

template <typename Stream>
void transfer(Stream& stream, SegmentResult& result) {
  stream(result.sequence_id, result.next, result.logits, result.nll, result.target_top,
         result.expert_ids);
}

// Sequences of other engines stay in their process, see Engine::check.
template <typename Stream>
void transfer(Stream& stream, RankPlan& plan) {
  stream(plan.segments, plan.closed);
}

template <typename Stream>
void transfer(Stream& stream, PhaseSeconds& seconds) {
  stream(seconds.attention, seconds.routing, seconds.dispatch, seconds.experts, seconds.combine,
         seconds.other);
}

template <typename Stream>
void transfer(Stream& stream, ExpertTimes& times) {
  stream(times.num_samples, times.sum_x, times.sum_y, times.sum_xx, times.sum_xy, times.sum_yy);
}

template <typename Stream>
void transfer(Stream& stream, RankResult& result) {
  stream(result.segments, result.seconds, result.expert_times, result.traffic.num_messages,
         result.traffic.num_bytes);
}

template <typename Stream>
void transfer(Stream& stream, RecordedPass& pass) {
  stream(pass.forward_pass_id, pass.num_tokens, pass.counts, pass.forward_mode, pass.input_ids,
         pass.positions, pass.extend_seq_lens, pass.topk_ids);
}

}  // namespace plimsoll
