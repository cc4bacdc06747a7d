#include "ep/exchange_normal.h"

#include <algorithm>
#include <cstring>

#include "ep/stream_copy.h"

namespace plimsoll {
namespace {

// Of one rank's messages. What is larger has left the caches before its receivers read it.
constexpr size_t kStreamedBytes = size_t{8} << 20;

}  // namespace

NormalExchange::NormalExchange(Communicator& comm, int num_slots, bool broadcast)
    : comm_(comm),
      num_slots_(num_slots),
      broadcast_(broadcast),
      outgoing_(comm.num_ranks()),
      sent_(comm.num_ranks()),
      received_(comm.num_ranks()),
      outputs_(comm.num_ranks()) {}

Status NormalExchange::dispatch(const DispatchInput& input) {
  // Header, entries and rows follow each other without padding.
  static_assert(sizeof(Header) % alignof(float) == 0 && sizeof(Entry) % alignof(float) == 0);
  hidden_size_ = input.hidden_size;
  measure(input);
  pack(input);
  return comm_.begin_all_to_all(sent_);
}

Status NormalExchange::receive(ExpertWork& work) {
  if (Status status = comm_.finish_all_to_all(received_); !status.ok()) return status;
  list_arrivals(hidden_size_, work);
  return ok_status();
}

// Counts entries and rows for each rank, and remembers each entry's place in its message.
void NormalExchange::measure(const DispatchInput& input) {
  for (Outgoing& out : outgoing_) out.num_entries = out.num_rows = 0, out.last_token = -1;
  targets_.assign(input.targets.begin(), input.targets.end());
  entry_of_.resize(targets_.size());
  for (int t = 0, i = 0; t < input.num_tokens; ++t) {
    for (int j = 0; j < input.num_columns; ++j, ++i) {
      if (targets_[i].rank < 0) continue;
      Outgoing& out = outgoing_[targets_[i].rank];
      entry_of_[i] = out.num_entries++;
      if (out.last_token != t) out.last_token = t, ++out.num_rows;
    }
  }
  if (broadcast_) {
    for (Outgoing& out : outgoing_) out.num_rows = input.num_tokens;
  }
}

void NormalExchange::pack(const DispatchInput& input) {
  traffic_ = {};
  const size_t row_bytes = input.hidden_size * sizeof(float);
  size_t num_bytes_of_all = 0;
  for (int r = 0; r < comm_.num_ranks(); ++r) {
    Outgoing& out = outgoing_[r];
    const size_t rows_at = sizeof(Header) + sizeof(Entry) * out.num_entries;
    const size_t num_bytes = rows_at + out.num_rows * row_bytes;
    std::byte* buffer = out.buffer.reserve(comm_, num_bytes);
    *reinterpret_cast<Header*>(buffer) = {out.num_entries, out.num_rows};
    out.entries = reinterpret_cast<Entry*>(buffer + sizeof(Header));
    out.rows = reinterpret_cast<float*>(buffer + rows_at);
    sent_[r] = {buffer, num_bytes};
    num_bytes_of_all += num_bytes;
    if (r != comm_.rank()) {
      traffic_.num_messages += out.num_rows;
      traffic_.num_bytes += num_bytes + out.num_entries * row_bytes;
    }
    out.last_token = -1;
    out.num_rows = 0;
  }
  const bool streamed = num_bytes_of_all > kStreamedBytes;
  for (int t = 0, i = 0; t < input.num_tokens; ++t) {
    const float* row = input.rows + static_cast<size_t>(t) * input.hidden_size;
    const auto add_row = [&](Outgoing& out) {
      if (out.last_token == t) return;
      out.last_token = t;
      float* to = out.rows + static_cast<size_t>(out.num_rows++) * input.hidden_size;
      if (streamed) {
        stream_copy(to, row, row_bytes);
      } else {
        std::memcpy(to, row, row_bytes);
      }
    };
    if (broadcast_) std::ranges::for_each(outgoing_, add_row);
    for (int j = 0; j < input.num_columns; ++j, ++i) {
      if (targets_[i].rank < 0) continue;
      Outgoing& out = outgoing_[targets_[i].rank];
      add_row(out);
      out.entries[entry_of_[i]] = {out.num_rows - 1, targets_[i].slot, input.weights[i]};
    }
  }
}

// A counting sort of all arrived entries by slot; outputs go straight into the messages home.
void NormalExchange::list_arrivals(int hidden_size, ExpertWork& work) {
  struct Message {
    std::span<const Entry> entries;
    const float* rows;
  };
  const auto parse = [](Bytes bytes) -> Message {
    const auto* header = reinterpret_cast<const Header*>(bytes.data());
    const auto* entries = reinterpret_cast<const Entry*>(header + 1);
    return {{entries, static_cast<size_t>(header->num_entries)},
            reinterpret_cast<const float*>(entries + header->num_entries)};
  };

  work.first.assign(num_slots_ + 1, 0);
  for (int r = 0; r < comm_.num_ranks(); ++r) {
    const std::span<const Entry> entries = parse(received_[r]).entries;
    for (const Entry& entry : entries) ++work.first[entry.slot + 1];
    const size_t num_bytes = entries.size() * hidden_size * sizeof(float);
    sent_[r] = {outputs_[r].reserve(comm_, num_bytes), num_bytes};
  }
  for (int s = 0; s < num_slots_; ++s) work.first[s + 1] += work.first[s];
  work.rows.resize(work.first[num_slots_]);

  std::vector<int32_t>& next =
      work.first;  // each slot's start walks to its end, then is shifted back
  for (int r = 0; r < comm_.num_ranks(); ++r) {
    const Message message = parse(received_[r]);
    auto* out = reinterpret_cast<float*>(outputs_[r].data());
    for (const Entry& entry : message.entries) {
      const float* row = message.rows + static_cast<size_t>(entry.row_idx) * hidden_size;
      work.rows[next[entry.slot]++] = {row, entry.weight, out};
      out += hidden_size;
    }
  }
  std::copy_backward(next.begin(), next.end() - 1, next.end());
  next[0] = 0;
}

Status NormalExchange::combine(std::span<const float*> results) {
  if (Status status = comm_.all_to_all(sent_, received_); !status.ok()) {
    return status;
  }
  for (size_t i = 0; i < targets_.size(); ++i) {
    const Target target = targets_[i];
    results[i] = target.rank < 0 ? nullptr
                                 : reinterpret_cast<const float*>(received_[target.rank].data()) +
                                       static_cast<size_t>(entry_of_[i]) * hidden_size_;
  }
  return ok_status();
}

}  // namespace plimsoll
