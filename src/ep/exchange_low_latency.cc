#include "ep/exchange_low_latency.h"

#include <cstring>
#include <numeric>
#include <string>

namespace plimsoll {

LowLatencyExchange::LowLatencyExchange(Communicator& comm,
                                       int num_slots,
                                       int capacity,
                                       int hidden_size)
    : comm_(comm),
      num_slots_(num_slots),
      capacity_(capacity),
      hidden_size_(hidden_size),
      outgoing_(comm.num_ranks()),
      outputs_(comm.num_ranks()),
      sent_(comm.num_ranks()),
      received_(comm.num_ranks()) {
  // A token's columns may all go to one rank, but to different slots.
  const size_t max_rows = static_cast<size_t>(capacity) * num_slots;
  for (int r = 0; r < comm.num_ranks(); ++r) {
    outgoing_[r].reserve(comm, counts_bytes() + max_rows * record_bytes());
    outputs_[r].reserve(comm, max_rows * hidden_size * sizeof(float));
  }
}

// Counts rows by rank and slot, writes the counts into the messages, and gives every (token,
// column) its place.
void LowLatencyExchange::find_positions(const DispatchInput& input) {
  targets_.assign(input.targets.begin(), input.targets.end());
  position_of_.resize(targets_.size());
  counts_.assign(static_cast<size_t>(comm_.num_ranks()) * num_slots_, 0);
  next_.resize(counts_.size());
  const auto slot_idx = [&](const Target& target) {
    return static_cast<size_t>(target.rank) * num_slots_ + target.slot;
  };
  for (const Target& target : targets_) {
    if (target.rank >= 0) ++counts_[slot_idx(target)];
  }
  for (int r = 0; r < comm_.num_ranks(); ++r) {
    const size_t first = static_cast<size_t>(r) * num_slots_;
    std::memcpy(outgoing_[r].data(), counts_.data() + first, counts_bytes());
    const auto begin = counts_.begin() + first;
    std::exclusive_scan(begin, begin + num_slots_, next_.begin() + first, 0);
    const int num_rows = next_[first + num_slots_ - 1] + counts_[first + num_slots_ - 1];
    sent_[r] = {outgoing_[r].data(), counts_bytes() + num_rows * record_bytes()};
  }
  for (size_t i = 0; i < targets_.size(); ++i) {
    if (targets_[i].rank >= 0) position_of_[i] = next_[slot_idx(targets_[i])]++;
  }
}

Status LowLatencyExchange::dispatch(const DispatchInput& input) {
  if (input.num_tokens > capacity_) {
    return invalid_argument("a low-latency step has " + std::to_string(input.num_tokens) +
                            " tokens on one rank, but --max-dispatch-tokens-per-rank is " +
                            std::to_string(capacity_));
  }
  find_positions(input);
  const size_t row_bytes = hidden_size_ * sizeof(float);
  traffic_ = {};
  for (int t = 0, i = 0; t < input.num_tokens; ++t) {
    const float* row = input.rows + static_cast<size_t>(t) * hidden_size_;
    for (int j = 0; j < input.num_columns; ++j, ++i) {
      const int rank = targets_[i].rank;
      if (rank < 0) continue;
      std::byte* to = outgoing_[rank].data() + counts_bytes() + position_of_[i] * record_bytes();
      std::memcpy(to, &input.weights[i], sizeof(float));
      std::memcpy(to + sizeof(float), row, row_bytes);
      if (rank != comm_.rank()) {
        ++traffic_.num_messages;
        traffic_.num_bytes += record_bytes() + row_bytes;
      }
    }
  }
  return comm_.begin_all_to_all(sent_);
}

Status LowLatencyExchange::receive(ExpertWork& work) {
  if (Status status = comm_.finish_all_to_all(received_); !status.ok()) return status;
  list_arrivals(work);
  return ok_status();
}

void LowLatencyExchange::list_arrivals(ExpertWork& work) {
  work.first.assign(1, 0);
  work.rows.clear();
  next_.assign(comm_.num_ranks(), 0);  // rows of each source listed so far
  for (int s = 0; s < num_slots_; ++s) {
    for (int r = 0; r < comm_.num_ranks(); ++r) {
      const std::byte* message = received_[r].data();
      const int count = reinterpret_cast<const int32_t*>(message)[s];
      for (int i = 0; i < count; ++i, ++next_[r]) {
        const auto* record =
            reinterpret_cast<const float*>(message + counts_bytes() + next_[r] * record_bytes());
        float* out = reinterpret_cast<float*>(outputs_[r].data()) +
                     static_cast<size_t>(next_[r]) * hidden_size_;
        work.rows.push_back({record + 1, record[0], out});
      }
    }
    work.first.push_back(static_cast<int32_t>(work.rows.size()));
  }
  for (int r = 0; r < comm_.num_ranks(); ++r) {
    sent_[r] = {outputs_[r].data(), next_[r] * hidden_size_ * sizeof(float)};
  }
}

Status LowLatencyExchange::combine(std::span<const float*> results) {
  if (Status status = comm_.all_to_all(sent_, received_); !status.ok()) return status;
  for (size_t i = 0; i < targets_.size(); ++i) {
    const int rank = targets_[i].rank;
    results[i] = rank < 0 ? nullptr
                          : reinterpret_cast<const float*>(received_[rank].data()) +
                                static_cast<size_t>(position_of_[i]) * hidden_size_;
  }
  return ok_status();
}

}  // namespace plimsoll
