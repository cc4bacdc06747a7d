// Dispatch and combine of ranks that reach each other's memory: rows are read where they lie, and
// results are written where they are wanted. What travels is a list of places, on the host; a
// rank's rows are ready when it dispatches, its results are written when it combines. Both modes
// alike.
#pragma once

#include <cstddef>
#include <vector>

#include "comm/communicator.h"
#include "ep/exchange.h"
#include "plimsoll/result.h"

namespace plimsoll {

class InPlaceExchange {
 public:
  // num_slots: expert slots of a rank, the shared one included.
  InPlaceExchange(Communicator& comm, int num_slots);

  Status dispatch(const DispatchInput& input);
  Status receive(ExpertWork& work);
  // results [num_tokens, num_columns]: input.results, row by row; null where a target was nowhere.
  Status combine(std::span<const float*> results);
  const ExchangeTraffic& traffic() const { return traffic_; }

 private:
  struct Entry {
    const float* row;
    float* out;
    float weight;
    int32_t slot;
  };

  Communicator& comm_;
  const int num_slots_;
  std::vector<std::vector<Entry>> outgoing_;  // [rank]
  std::vector<Bytes> sent_, received_;
  std::vector<const float*> results_;
  ExchangeTraffic traffic_;
};

}  // namespace plimsoll
