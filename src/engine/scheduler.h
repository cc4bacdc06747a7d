// Continuous batching: which tokens of which requests the ranks compute in the next step.
//
// A request lives on one rank from its first token to its last. Every step takes one token of each
// sequence that decodes, then prompt tokens in order of arrival up to the chunk limit.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/request.h"
#include "engine/step.h"

namespace plimsoll {

enum class DeepepMode { kAuto, kNormal, kLowLatency };

struct SchedulerLimits {
  int num_ranks = 1;
  DeepepMode mode = DeepepMode::kAuto;
  int max_running_requests = 256;          // all ranks together
  int chunked_prefill_size = 512;          // prompt tokens per rank and step
  int max_dispatch_tokens_per_rank = 128;  // capacity of a low-latency step
  int64_t max_sequence_tokens = 4096;
  int32_t eos_token = -1;
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

  // Nothing waits or runs. (Ranks may still hold ended sequences; they hear of it with the next
  // plan.)
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int num_running() const { return static_cast<int>(running_.size()); }

  StepPlan plan();
  // Takes the results of the step that plan() gave last, and appends what each request should hear.
  void apply(const StepPlan& plan, StepResult& result, std::vector<RequestUpdate>& updates);

 private:
  struct Sequence {
    Request request;
    int rank = 0;
    std::vector<int32_t> tokens;  // prompt, then what was sampled
    int64_t num_computed = 0;

    int64_t num_prompt() const { return static_cast<int64_t>(request.prompt.size()); }
    bool prefilling() const { return num_computed < num_prompt(); }
  };

  void admit();
  SegmentPlan next_segment(const Sequence& sequence, int64_t num_tokens) const;
  FinishReason advance(Sequence& sequence, RequestUpdate& update) const;
  void close(const Sequence& sequence);

  SchedulerLimits limits_;
  std::deque<Request> waiting_;               // in order of arrival
  std::vector<Sequence> running_;             // in order of admission
  std::vector<std::vector<int64_t>> closed_;  // [rank]: to tell the ranks with the next plan
  std::vector<std::vector<ArrivedSequence>> arrived_;  // [rank]: the same
};

}  // namespace plimsoll
