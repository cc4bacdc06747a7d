// Normal mode: a token is sent once to each rank that needs it, however many of its experts live
// there; sizes travel first, so buffers are as long as the batch needs. (DeepEP's
// get_dispatch_layout, dispatch, combine; made for prefill.)
#pragma once

#include "ep/exchange.h"

namespace plimsoll {

class NormalExchange {
 public:
  // With `broadcast`, every rank gets every token, whether it needs it or not: what an engine
  // without an expert-parallel all-to-all does (`--moe-a2a-backend none`).
  NormalExchange(Communicator& comm, int num_slots, bool broadcast);

  Status dispatch(const DispatchInput& input);
  Status receive(ExpertWork& work);
  // results[token, column]: the output row of that target, null for an inactive one. The rows can
  // be read until the next collective.
  Status combine(std::span<const float*> results);

  const ExchangeTraffic& traffic() const { return traffic_; }

 private:
  // The head of a message; then come the entries, then the rows.
  struct Header {
    int32_t num_entries;
    int32_t num_rows;
  };
  // One expert's use of a row of the message.
  struct Entry {
    int32_t row_idx;
    int32_t slot;
    float weight;
  };
  struct Outgoing {
    int32_t num_entries = 0;
    int32_t num_rows = 0;
    int32_t last_token = -1;
    SendBuffer buffer;
    Entry* entries = nullptr;
    float* rows = nullptr;
  };

  void measure(const DispatchInput& input);
  void pack(const DispatchInput& input);
  void list_arrivals(int hidden_size, ExpertWork& work);

  Communicator& comm_;
  int num_slots_;
  bool broadcast_;
  int hidden_size_ = 0;
  std::vector<Outgoing> outgoing_;  // [rank]
  std::vector<int32_t> entry_of_;   // [token, column]: place in the message to its target's rank
  std::vector<Target> targets_;     // of the batch in flight
  std::vector<Bytes> sent_, received_;  // [rank]
  std::vector<SendBuffer> outputs_;     // [source rank]: output rows in the order of its entries
  ExchangeTraffic traffic_;
};

}  // namespace plimsoll
