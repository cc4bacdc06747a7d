// Continuous batching: which tokens of which requests the ranks compute in the next step.
//
// Requests are admitted in order of arrival, each to the rank with the least work among those that
// have room, and stay there. Every step takes one token of each sequence that decodes, then prompt
// tokens in order of arrival up to the chunk limit. A rank whose sequences outgrow its state memory
// sends its youngest back to the queue (preemption): its state is dropped, and computed again from
// its tokens once there is room. What its caller has heard stays true, because the same tokens make
// the same bits, and sampling depends on nothing but logits, seed and position. The oldest request
// of a rank is never sent back, so every request ends.
//
// The work of a step is linear in the sequences that run.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/schedule/request.h"
#include "engine/schedule/step.h"
#include "model/forward/sequence_state.h"

namespace plimsoll {

enum class DeepepMode { kAuto, kNormal, kLowLatency };

struct SchedulerLimits {
  int num_ranks = 1;
  DeepepMode mode = DeepepMode::kAuto;
  int max_running_requests = 256;          // all ranks together
  int chunked_prefill_size = 512;          // prompt tokens per rank and step
  int max_dispatch_tokens_per_rank = 128;  // capacity of a low-latency step
  int64_t max_sequence_tokens = 4096;
  std::vector<int32_t> eos_tokens;  // each ends an answer

  // Of a rank's sequences together. A sequence of max_sequence_tokens must fit alone.
  int64_t max_tokens_per_rank = INT64_MAX;
  int64_t max_state_bytes_per_rank = INT64_MAX;
  StateSize state_size;
};

// How the request ends if `token` is the num_generated-th token of its answer.
FinishReason finish_after(const Request& request,
                          const SchedulerLimits& limits,
                          int64_t num_generated,
                          int32_t token);

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  // The request waits until a rank has room. Its prompt must fit max_sequence_tokens.
  void add(Request request);
  void cancel(int64_t request_id);

  // Nothing waits or runs. (Ranks may still hold ended sequences, see plan_drop.)
  bool idle() const { return places_.empty(); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int num_running() const { return static_cast<int>(places_.size() - waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }  // since the start
  int64_t num_state_tokens() const;                             // reserved by what runs
  int64_t num_state_bytes() const;
  double state_use() const;  // of the fullest rank, as a share of its limits; 1 is full

  // Goes on with other ranks, whose states are gone: all that ran waits, in order of arrival, and
  // is computed again from its tokens.
  void restart(const SchedulerLimits& limits);

  StepPlan plan();
  // While nothing runs no step tells the ranks what to drop; this plan does. None where there is
  // nothing to tell.
  std::optional<StepPlan> plan_drop();
  // Takes the results of the step that plan() gave last, and appends what each request should hear.
  void apply(const StepPlan& plan, StepResult& result, std::vector<RequestUpdate>& updates);

 private:
  struct Sequence {
    Request request;
    std::vector<int32_t> tokens;  // prompt, then what was sampled
    int64_t num_computed = 0;     // leading tokens that its state holds
    int64_t num_told = 0;  // leading tokens whose results were handed out; more than num_computed
                           // while a preempted sequence is computed again

    int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
    int64_t num_prompt() const { return static_cast<int64_t>(request.prompt.size()); }
    bool decodes() const {
      return num_computed >= num_prompt() && num_computed + 1 == num_tokens();
    }
  };
  using Queue = std::map<int64_t, Sequence>;  // by arrival
  struct Rank {
    Queue running;
    int64_t num_tokens = 0;  // of all that run here
    // To tell with the next plan: sequences to drop, and to take over.
    std::vector<int64_t> closed;
    std::vector<ArrivedSequence> arrived;
  };
  struct Place {
    int rank = kWaiting;
    int64_t arrival = 0;
  };
  static constexpr int kWaiting = -1;

  bool fits(int64_t num_sequences, int64_t num_tokens) const;
  bool has_room(const Rank& rank, const Sequence& sequence) const;
  int64_t work_left(const Sequence& sequence) const;
  void make_room();
  void admit();
  Queue::node_type take(const Place& place);
  void plan_rank(Rank& rank, RankPlan& plan, bool& any_prompt) const;
  SegmentPlan next_segment(const Sequence& sequence, int64_t num_tokens) const;
  FinishReason advance(Sequence& sequence, RequestUpdate& update) const;

  void send_back(Place& place);

  SchedulerLimits limits_;
  int64_t num_arrived_ = 0;
  int64_t num_preemptions_ = 0;
  Queue waiting_;
  std::vector<Rank> ranks_;
  std::unordered_map<int64_t, Place> places_;  // of every live request, by its id
};

}  // namespace plimsoll
