#include "engine/scheduler.h"

#include <algorithm>

namespace plimsoll {

FinishReason finish_after(const Request& request,
                          const SchedulerLimits& limits,
                          int64_t num_generated,
                          int32_t token) {
  if (token == limits.eos_token && !request.ignore_eos) return FinishReason::kStop;
  const int64_t num_tokens = static_cast<int64_t>(request.prompt.size()) + num_generated;
  const bool full = num_generated >= request.max_tokens || num_tokens >= limits.max_sequence_tokens;
  return full ? FinishReason::kLength : FinishReason::kNone;
}

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits), closed_(limits.num_ranks), arrived_(limits.num_ranks) {}

void Scheduler::add(Request request) {
  waiting_.push_back(std::move(request));
}

void Scheduler::cancel(int64_t request_id) {
  std::erase_if(waiting_, [&](const Request& request) { return request.id == request_id; });
  std::erase_if(running_, [&](const Sequence& sequence) {
    if (sequence.request.id != request_id) return false;
    close(sequence);
    return true;
  });
}

void Scheduler::close(const Sequence& sequence) {
  closed_[sequence.rank].push_back(sequence.request.id);
}

// Gives waiting requests, oldest first, to the rank with the fewest tokens still to compute.
void Scheduler::admit() {
  const int num_ranks = limits_.num_ranks;
  const int max_per_rank = (limits_.max_running_requests + num_ranks - 1) / num_ranks;
  std::vector<int> num_sequences(num_ranks);
  std::vector<int64_t> num_tokens_left(num_ranks);
  const auto count = [&](const Sequence& sequence) {
    ++num_sequences[sequence.rank];
    num_tokens_left[sequence.rank] +=
        sequence.num_prompt() + sequence.request.max_tokens - sequence.num_computed;
  };
  std::ranges::for_each(running_, count);
  while (!waiting_.empty() && num_running() < limits_.max_running_requests) {
    int best = -1;
    for (int r = 0; r < num_ranks; ++r) {
      if (num_sequences[r] >= max_per_rank) continue;
      if (best < 0 || num_tokens_left[r] < num_tokens_left[best]) best = r;
    }
    if (best < 0) return;
    Sequence sequence{.request = std::move(waiting_.front()), .rank = best};
    waiting_.pop_front();
    Request& request = sequence.request;
    sequence.tokens = request.prompt;
    if (request.state) {
      sequence.tokens.insert(sequence.tokens.end(), request.generated.begin(),
                             request.generated.end());
      sequence.num_computed = request.state->num_tokens;
      arrived_[best].push_back({request.id, std::move(request.state)});
    }
    count(sequence);
    running_.push_back(std::move(sequence));
  }
}

StepPlan Scheduler::plan() {
  admit();
  StepPlan plan;
  plan.ranks.resize(limits_.num_ranks);
  bool any_prefill = false;
  for (int r = 0; r < limits_.num_ranks; ++r) {
    RankPlan& rank = plan.ranks[r];
    std::swap(rank.closed, closed_[r]);
    std::swap(rank.arrived, arrived_[r]);
    for (const Sequence& sequence : running_) {
      if (sequence.rank == r && !sequence.prefilling()) {
        rank.segments.push_back(next_segment(sequence, 1));
      }
    }
    int64_t room = limits_.chunked_prefill_size;
    if (limits_.mode == DeepepMode::kLowLatency) {
      room = limits_.max_dispatch_tokens_per_rank - static_cast<int64_t>(rank.segments.size());
    }
    for (const Sequence& sequence : running_) {
      if (sequence.rank != r || !sequence.prefilling() || room <= 0) continue;
      const int64_t chunk = std::min(room, sequence.num_prompt() - sequence.num_computed);
      rank.segments.push_back(next_segment(sequence, chunk));
      room -= chunk;
      any_prefill = true;
    }
  }
  const bool low_latency = limits_.mode == DeepepMode::kLowLatency ||
                           (limits_.mode == DeepepMode::kAuto && !any_prefill);
  plan.mode = low_latency ? StepMode::kLowLatency : StepMode::kNormal;
  return plan;
}

SegmentPlan Scheduler::next_segment(const Sequence& sequence, int64_t num_tokens) const {
  const Request& request = sequence.request;
  const int64_t first = sequence.num_computed;
  const int64_t end = first + num_tokens;
  const auto at = sequence.tokens.begin();
  SegmentPlan segment{.sequence_id = request.id,
                      .tokens = {at + first, at + end},
                      .first_position = first,
                      .prompt_tokens = sequence.num_prompt(),
                      .padding_tokens = request.padding_tokens,
                      .is_prompt = sequence.prefilling(),
                      .sample = request.max_tokens > 0 && end >= sequence.num_prompt(),
                      .sampling = request.sampling,
                      .num_top_logprobs = request.num_top_logprobs};
  if (request.sampling.presence_penalty != 0 || request.sampling.frequency_penalty != 0) {
    segment.generated.assign(at + sequence.num_prompt(), sequence.tokens.end());
  }
  if (!sequence.prefilling()) return segment;
  for (int64_t position : request.logits_positions) {
    if (position >= first && position < end) {
      segment.logits_rows.push_back(static_cast<int32_t>(position - first));
    }
  }
  if (request.score_prompt) {
    segment.targets.assign(at + first + 1, at + std::min(end + 1, sequence.num_prompt()));
  }
  segment.return_expert_ids = request.return_expert_ids;
  segment.hand_over = request.hand_over && end == sequence.num_prompt();
  return segment;
}

void Scheduler::apply(const StepPlan& plan,
                      StepResult& result,
                      std::vector<RequestUpdate>& updates) {
  for (int r = 0; r < limits_.num_ranks; ++r) {
    for (size_t i = 0; i < plan.ranks[r].segments.size(); ++i) {
      const SegmentPlan& segment = plan.ranks[r].segments[i];
      const auto sequence = std::ranges::find_if(running_, [&](const Sequence& candidate) {
        return candidate.request.id == segment.sequence_id;
      });
      if (sequence == running_.end()) continue;  // cancelled while the step ran
      sequence->num_computed += static_cast<int64_t>(segment.tokens.size());
      RequestUpdate update{.request_id = segment.sequence_id,
                           .result = std::move(result.ranks[r].segments[i]),
                           .has_token = segment.sample};
      update.finish = advance(*sequence, update);
      if (update.finish != FinishReason::kNone) {
        close(*sequence);
        running_.erase(sequence);
      }
      updates.push_back(std::move(update));
    }
  }
}

FinishReason Scheduler::advance(Sequence& sequence, RequestUpdate& update) const {
  const Request& request = sequence.request;
  if (sequence.prefilling()) return FinishReason::kNone;
  if (!update.has_token) return FinishReason::kLength;  // only the prompt was asked for
  const int32_t token = update.result.next.token;
  sequence.tokens.push_back(token);
  const auto num_generated = static_cast<int64_t>(sequence.tokens.size()) - sequence.num_prompt();
  return finish_after(request, limits_, num_generated, token);
}

}  // namespace plimsoll
