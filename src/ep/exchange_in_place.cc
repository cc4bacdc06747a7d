#include "ep/exchange_in_place.h"

#include <algorithm>

namespace plimsoll {

InPlaceExchange::InPlaceExchange(Communicator& comm, int num_slots)
    : comm_(comm),
      num_slots_(num_slots),
      outgoing_(comm.num_ranks()),
      sent_(comm.num_ranks()),
      received_(comm.num_ranks()) {}

Status InPlaceExchange::dispatch(const DispatchInput& input) {
  for (std::vector<Entry>& entries : outgoing_) entries.clear();
  results_.assign(input.targets.size(), nullptr);
  traffic_ = {};
  for (size_t i = 0; i < input.targets.size(); ++i) {
    const Target target = input.targets[i];
    if (target.rank < 0) continue;
    const size_t token = i / input.num_columns;
    float* const out = input.results + i * input.hidden_size;
    results_[i] = out;
    outgoing_[target.rank].push_back(
        {input.rows + token * input.hidden_size, out, input.weights[i], target.slot});
    if (target.rank == comm_.rank()) continue;
    ++traffic_.num_messages;
    traffic_.num_bytes += static_cast<int64_t>(2 * sizeof(float)) * input.hidden_size;
  }
  std::ranges::transform(outgoing_, sent_.begin(), [](const std::vector<Entry>& entries) {
    return std::as_bytes(std::span(entries));
  });
  return comm_.begin_all_to_all(sent_);
}

// A counting sort by slot; within one, by source rank and its order.
Status InPlaceExchange::receive(ExpertWork& work) {
  if (Status status = comm_.finish_all_to_all(received_); !status.ok()) return status;
  const auto for_all = [&](auto&& visit) {
    for (const Bytes bytes : received_) {
      const auto* first = reinterpret_cast<const Entry*>(bytes.data());
      std::for_each_n(first, bytes.size() / sizeof(Entry), visit);
    }
  };
  work.first.assign(num_slots_ + 1, 0);
  for_all([&](const Entry& entry) { ++work.first[entry.slot + 1]; });
  for (int s = 0; s < num_slots_; ++s) work.first[s + 1] += work.first[s];
  work.rows.resize(work.first[num_slots_]);
  std::vector<int32_t> next(work.first.begin(), work.first.end() - 1);
  for_all([&](const Entry& entry) {
    work.rows[next[entry.slot]++] = {entry.row, entry.weight, entry.out};
  });
  return ok_status();
}

Status InPlaceExchange::combine(std::span<const float*> results) {
  std::ranges::fill(sent_, Bytes{});  // all have written when all are here
  if (Status status = comm_.all_to_all(sent_, received_); !status.ok()) return status;
  std::ranges::copy(results_, results.begin());
  return ok_status();
}

}  // namespace plimsoll
