#include "ep/moe_compute.h"

#include <algorithm>

namespace plimsoll {
namespace {

float* at_least(std::vector<float>& rows, size_t size) {
  if (rows.size() < size) rows.resize(size);
  return rows.data();
}

}  // namespace

Status HostMoeCompute::compute_experts(int layer_idx,
                                       std::span<const int32_t> slots,
                                       const ExpertWork& work) {
  for (size_t s = 0; s < slots.size(); ++s) {
    const auto rows = std::span<const ExpertRow>(work.rows).subspan(
        work.first[s], work.first[s + 1] - work.first[s]);
    if (!rows.empty()) function_(layer_idx, slots[s], rows);
  }
  return ok_status();
}

Status HostMoeCompute::sum_results(std::span<const float* const> results,
                                   int num_tokens,
                                   const float* last,
                                   float* out) {
  if (num_tokens == 0) return ok_status();
  const size_t num_columns = results.size() / num_tokens;
  for (int t = 0; t < num_tokens; ++t) {
    const size_t offset = static_cast<size_t>(t) * hidden_size_;
    float* const sum = out + offset;
    const auto add = [&](const float* row) {
      for (int i = 0; i < hidden_size_; ++i) sum[i] += row[i];
    };
    const auto columns = results.subspan(t * num_columns, num_columns);
    std::copy_n(columns[0], hidden_size_, sum);
    for (const float* row : columns.subspan(1)) add(row);
    if (last != nullptr) add(last + offset);
  }
  return ok_status();
}

float* HostMoeCompute::shared_rows(size_t num_rows) {
  return at_least(shared_rows_, num_rows * hidden_size_);
}

float* HostMoeCompute::result_rows(size_t num_rows) {
  return at_least(result_rows_, num_rows * hidden_size_);
}

}  // namespace plimsoll
