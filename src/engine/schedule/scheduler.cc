#include "engine/schedule/scheduler.h"

#include <algorithm>

namespace plimsoll {
namespace {

// Room for so many more tokens of each sequence is asked for before another one is admitted, lest
// it be sent back at once.
constexpr int64_t kHeadroomTokens = 8;

}  // namespace

FinishReason finish_after(const Request& request,
                          const SchedulerLimits& limits,
                          int64_t num_generated,
                          int32_t token) {
  if (std::ranges::find(limits.eos_tokens, token) != limits.eos_tokens.end() &&
      !request.ignore_eos) {
    return FinishReason::kStop;
  }
  const int64_t num_tokens = static_cast<int64_t>(request.prompt.size()) + num_generated;
  const bool full = num_generated >= request.max_tokens || num_tokens >= limits.max_sequence_tokens;
  return full ? FinishReason::kLength : FinishReason::kNone;
}

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), ranks_(limits.num_ranks) {}

void Scheduler::add(Request request) {
  const int64_t arrival = num_arrived_++;
  places_[request.id] = {.arrival = arrival};
  Sequence& sequence = waiting_[arrival];
  sequence.tokens = request.prompt;
  sequence.tokens.insert(sequence.tokens.end(), request.generated.begin(), request.generated.end());
  sequence.request = std::move(request);
}

void Scheduler::cancel(int64_t request_id) {
  const auto place = places_.find(request_id);
  if (place == places_.end()) return;
  take(place->second);
  places_.erase(place);
}

int64_t Scheduler::num_state_tokens() const {
  int64_t sum = 0;
  for (const Rank& rank : ranks_) sum += rank.num_tokens;
  return sum;
}

int64_t Scheduler::num_state_bytes() const {
  return limits_.state_size.bytes(num_running(), num_state_tokens());
}

double Scheduler::state_use() const {
  double most = 0;
  for (const Rank& rank : ranks_) {
    const int64_t bytes =
        limits_.state_size.bytes(static_cast<int64_t>(rank.running.size()), rank.num_tokens);
    most = std::max(
        {most,
         static_cast<double>(rank.num_tokens) / static_cast<double>(limits_.max_tokens_per_rank),
         static_cast<double>(bytes) / static_cast<double>(limits_.max_state_bytes_per_rank)});
  }
  return most;
}

// Takes a sequence from where it waits or runs; a rank will drop its state.
Scheduler::Queue::node_type Scheduler::take(const Place& place) {
  if (place.rank == kWaiting) return waiting_.extract(place.arrival);
  Rank& rank = ranks_[place.rank];
  Queue::node_type node = rank.running.extract(place.arrival);
  rank.num_tokens -= node.mapped().num_tokens();
  rank.closed.push_back(node.mapped().request.id);
  return node;
}

bool Scheduler::fits(int64_t num_sequences, int64_t num_tokens) const {
  return num_tokens <= limits_.max_tokens_per_rank &&
         limits_.state_size.bytes(num_sequences, num_tokens) <= limits_.max_state_bytes_per_rank;
}

void Scheduler::send_back(Place& place) {
  Queue::node_type node = take(place);
  node.mapped().num_computed = 0;
  place.rank = kWaiting;
  waiting_.insert(std::move(node));
}

void Scheduler::restart(const SchedulerLimits& limits) {
  for (auto& [id, place] : places_) {
    if (place.rank != kWaiting) send_back(place);
  }
  limits_ = limits;
  ranks_.assign(limits.num_ranks, {});
}

// Sends back the youngest sequences of ranks that hold too much.
void Scheduler::make_room() {
  for (Rank& rank : ranks_) {
    while (rank.running.size() > 1 &&
           !fits(static_cast<int64_t>(rank.running.size()), rank.num_tokens)) {
      send_back(places_.at(rank.running.rbegin()->second.request.id));
      ++num_preemptions_;
    }
  }
}

bool Scheduler::has_room(const Rank& rank, const Sequence& sequence) const {
  if (rank.running.empty()) return true;
  const int max_per_rank =
      (limits_.max_running_requests + limits_.num_ranks - 1) / limits_.num_ranks;
  const auto num_sequences = static_cast<int64_t>(rank.running.size()) + 1;
  return num_sequences <= max_per_rank &&
         fits(num_sequences,
              rank.num_tokens + sequence.num_tokens() + num_sequences * kHeadroomTokens);
}

// Tokens still to compute, if the request goes on as long as it may.
int64_t Scheduler::work_left(const Sequence& sequence) const {
  const int64_t end =
      std::min(sequence.num_prompt() + sequence.request.max_tokens, limits_.max_sequence_tokens);
  return end - sequence.num_computed;
}

// Gives waiting requests, oldest first, to the rank with the least work among those with room. None
// overtakes another: a long prompt is not kept waiting by short ones that would still fit.
void Scheduler::admit() {
  if (waiting_.empty()) return;
  std::vector<int64_t> work;
  for (const Rank& rank : ranks_) {
    int64_t& sum = work.emplace_back(0);
    for (const auto& [arrival, sequence] : rank.running) sum += work_left(sequence);
  }
  while (!waiting_.empty() && num_running() < limits_.max_running_requests) {
    Sequence& next = waiting_.begin()->second;
    int best = kWaiting;
    for (int r = 0; r < limits_.num_ranks; ++r) {
      if (!has_room(ranks_[r], next)) continue;
      if (best == kWaiting || work[r] < work[best]) best = r;
    }
    if (best == kWaiting) return;
    work[best] += work_left(next);
    Rank& rank = ranks_[best];
    rank.num_tokens += next.num_tokens();
    if (next.request.state) {
      next.num_computed = next.num_told = next.request.state->num_tokens;
      rank.arrived.push_back({next.request.id, std::move(next.request.state)});
    }
    places_.at(next.request.id).rank = best;
    rank.running.insert(waiting_.extract(waiting_.begin()));
  }
}

StepPlan Scheduler::plan() {
  make_room();
  admit();
  StepPlan plan;
  plan.ranks.resize(limits_.num_ranks);
  bool any_prompt = false;
  for (int r = 0; r < limits_.num_ranks; ++r) plan_rank(ranks_[r], plan.ranks[r], any_prompt);
  const bool low_latency =
      limits_.mode == DeepepMode::kLowLatency || (limits_.mode == DeepepMode::kAuto && !any_prompt);
  plan.mode = low_latency ? StepMode::kLowLatency : StepMode::kNormal;
  return plan;
}

std::optional<StepPlan> Scheduler::plan_drop() {
  const auto has_closed = [](const Rank& rank) { return !rank.closed.empty(); };
  if (!idle() || std::ranges::none_of(ranks_, has_closed)) return std::nullopt;
  StepPlan plan{.computes = false};
  for (Rank& rank : ranks_) {
    plan.ranks.push_back({.closed = std::move(rank.closed)});
    rank.closed.clear();
  }
  return plan;
}

void Scheduler::plan_rank(Rank& rank, RankPlan& plan, bool& any_prompt) const {
  std::swap(plan.closed, rank.closed);
  std::swap(plan.arrived, rank.arrived);
  for (const auto& [arrival, sequence] : rank.running) {
    if (sequence.decodes()) plan.segments.push_back(next_segment(sequence, 1));
  }
  int64_t room = limits_.chunked_prefill_size;
  if (limits_.mode == DeepepMode::kLowLatency) {
    room = limits_.max_dispatch_tokens_per_rank - static_cast<int64_t>(plan.segments.size());
  }
  for (const auto& [arrival, sequence] : rank.running) {
    if (room <= 0) break;
    if (sequence.decodes()) continue;
    // A chunk is either all news to the caller, or all known.
    const bool is_known = sequence.num_told > sequence.num_computed;
    const int64_t end = is_known ? sequence.num_told : sequence.num_tokens();
    const int64_t chunk = std::min(room, end - sequence.num_computed);
    plan.segments.push_back(next_segment(sequence, chunk));
    room -= chunk;
    any_prompt = true;
  }
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
                      .is_prompt = !sequence.decodes(),
                      .sample = request.max_tokens > 0 && end == sequence.num_tokens(),
                      .sampling = request.sampling,
                      .num_top_logprobs = request.num_top_logprobs};
  if (request.sampling.presence_penalty != 0 || request.sampling.frequency_penalty != 0) {
    segment.generated.assign(at + sequence.num_prompt(), sequence.tokens.end());
  }
  if (first < sequence.num_told || first >= sequence.num_prompt()) return segment;
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
      const auto place = places_.find(segment.sequence_id);
      if (place == places_.end()) continue;  // cancelled while the step ran
      Sequence& sequence = ranks_[r].running.at(place->second.arrival);
      sequence.num_computed += static_cast<int64_t>(segment.tokens.size());
      if (sequence.num_computed <= sequence.num_told) continue;  // computed again
      sequence.num_told = sequence.num_computed;
      RequestUpdate update{.request_id = segment.sequence_id,
                           .result = std::move(result.ranks[r].segments[i]),
                           .has_token = segment.sample};
      const int64_t num_before = sequence.num_tokens();
      update.finish = advance(sequence, update);
      ranks_[r].num_tokens += sequence.num_tokens() - num_before;
      if (update.finish != FinishReason::kNone) {
        take(place->second);
        places_.erase(place);
      }
      updates.push_back(std::move(update));
    }
  }
}

FinishReason Scheduler::advance(Sequence& sequence, RequestUpdate& update) const {
  const Request& request = sequence.request;
  if (sequence.num_computed < sequence.num_tokens()) return FinishReason::kNone;
  if (!update.has_token) return FinishReason::kLength;  // only the prompt was asked for
  const int32_t token = update.result.next.token;
  sequence.tokens.push_back(token);
  return finish_after(request, limits_, sequence.num_tokens() - sequence.num_prompt(), token);
}

}  // namespace plimsoll
