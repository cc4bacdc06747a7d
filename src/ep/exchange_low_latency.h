// Low-latency mode: one message per (token, expert), in buffers made for `capacity` tokens a rank,
// so that nothing is measured or grown on the way. (DeepEP's low_latency_dispatch and
// low_latency_combine; made for decode.)
//
// What is sent to a rank: how many rows each of its slots gets, then the rows, by slot.
#pragma once

#include "ep/exchange.h"

namespace plimsoll {

class LowLatencyExchange {
 public:
  // All ranks pass the same capacity, num_slots and hidden_size. Buffers come with the first
  // dispatch.
  LowLatencyExchange(Communicator& comm, int num_slots, int capacity, int hidden_size);

  // At most `capacity` tokens; more is an error of the caller, which plans the steps.
  Status dispatch(const DispatchInput& input);
  Status receive(ExpertWork& work);
  Status combine(std::span<const float*> results);  // as NormalExchange::combine

  const ExchangeTraffic& traffic() const { return traffic_; }

 private:
  // A row of a message is its weight, then its floats.
  size_t record_bytes() const { return (1 + static_cast<size_t>(hidden_size_)) * sizeof(float); }
  size_t counts_bytes() const { return num_slots_ * sizeof(int32_t); }
  void find_positions(const DispatchInput& input);
  void list_arrivals(ExpertWork& work);

  Communicator& comm_;
  int num_slots_;
  int capacity_;
  int hidden_size_;
  // [rank]. Made for the worst case, of which only what rows use takes memory.
  std::vector<SendBuffer> outgoing_, outputs_;
  std::vector<int32_t> counts_;         // [rank, slot]: rows to send
  std::vector<int32_t> next_;           // [rank, slot]: place of the next of them in its message
  std::vector<int32_t> position_of_;    // [token, column]: place among the rows of its message
  std::vector<Target> targets_;         // of the batch in flight
  std::vector<Bytes> sent_, received_;  // [rank]
  ExchangeTraffic traffic_;
};

}  // namespace plimsoll
