#include "record/counts.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace plimsoll {
namespace {

constexpr int64_t kMaxTotal = int64_t{1} << 53;
constexpr int64_t kMaxDimension = 1 << 24;

std::string shape_error(const std::vector<int64_t>& shape) {
  return "has shape " + shape_to_text(shape) +
         "; expected [layers, experts] or [steps, layers, experts]";
}

// True where `each` is, of every row of the last dimension.
template <typename Each>
bool all_rows(const NumberArray& numbers, const Each& each) {
  const auto size = static_cast<size_t>(numbers.shape.back());
  for (size_t i = 0; i < numbers.values.size(); i += size) {
    if (!each(std::span(numbers.values).subspan(i, size))) return false;
  }
  return true;
}

bool are_distinct(std::span<const int64_t> ids) {
  std::vector<int64_t> sorted;
  std::ranges::copy_if(ids, std::back_inserter(sorted), [](int64_t id) { return id >= 0; });
  std::ranges::sort(sorted);
  return std::ranges::adjacent_find(sorted) == sorted.end();
}

}  // namespace

Result<CountsShape> counts_shape_of(const std::vector<int64_t>& shape) {
  const size_t num_dims = shape.size();
  if ((num_dims != 2 && num_dims != 3) || shape[num_dims - 1] == 0 || shape[num_dims - 2] == 0 ||
      std::ranges::max(shape) > kMaxDimension) {
    return invalid_argument(shape_error(shape));
  }
  return CountsShape{static_cast<int>(num_dims == 3 ? shape[0] : 1),
                     static_cast<int>(shape[num_dims - 2]), static_cast<int>(shape[num_dims - 1])};
}

CountsBuilder::CountsBuilder(const CountsShape& shape, bool only_total) : only_total_(only_total) {
  LoadHistory& history = loaded_.history;
  history.num_layers = shape.num_layers;
  history.num_logical_experts = shape.num_logical_experts;
  step_size_ = static_cast<size_t>(shape.num_layers) * shape.num_logical_experts;
  history.counts.reserve(step_size_ * (only_total ? 1 : shape.num_steps));
}

Status CountsBuilder::add(std::span<const int64_t> step) {
  std::vector<int64_t>& counts = loaded_.history.counts;
  int64_t step_total = 0;
  for (const int64_t count : step) {
    if (count < 0) return invalid_argument("holds the negative count " + std::to_string(count));
    if (count > kMaxTotal - total_ - step_total) {
      return invalid_argument("counts more than 2^53 tokens, which no recording can");
    }
    step_total += count;
  }
  total_ += step_total;
  ++num_steps_;
  if (step_total > 0) used_steps_ = num_steps_;
  if (!only_total_) {
    counts.insert(counts.end(), step.begin(), step.end());
    return ok_status();
  }
  counts.resize(step_size_);
  for (size_t i = 0; i < step_size_; ++i) counts[i] += step[i];
  return ok_status();
}

LoadedCounts CountsBuilder::finish() {
  LoadHistory& history = loaded_.history;
  loaded_.num_steps = used_steps_;
  history.num_steps = only_total_ ? std::min(used_steps_, 1) : used_steps_;
  history.counts.resize(history.num_steps * step_size_);
  if (rounded_) {
    loaded_.notes.push_back("the counts have fractions; they were rounded to whole tokens");
  }
  return std::move(loaded_);
}

Result<LoadedCounts> counts_of(const NumberArray& numbers, bool only_total) {
  const Result<CountsShape> shape = counts_shape_of(numbers.shape);
  if (!shape.ok()) return shape.error();
  CountsBuilder builder(*shape, only_total);
  const size_t step_size = static_cast<size_t>(shape->num_layers) * shape->num_logical_experts;
  for (size_t i = 0; i < numbers.values.size(); i += step_size) {
    Status added = builder.add(std::span(numbers.values).subspan(i, step_size));
    if (!added.ok()) return added.error();
  }
  builder.note_rounding(numbers.rounded);
  return builder.finish();
}

bool is_placement(const NumberArray& numbers) {
  if (numbers.shape.size() != 2 || numbers.values.empty() || numbers.rounded) return false;
  const auto [least, most] = std::ranges::minmax(numbers.values);
  if (least != 0 || most < 1 || most >= numbers.shape[1]) return false;
  std::vector<uint8_t> seen(most + 1);
  return all_rows(numbers, [&](std::span<const int64_t> row) {
    std::ranges::fill(seen, 0);
    for (const int64_t expert : row) seen[expert] = 1;
    return std::ranges::count(seen, 0) == 0;
  });
}

bool is_trace(const NumberArray& numbers) {
  constexpr int64_t kMaxTopK = 32, kMaxTraceExperts = 4096, kMinRows = 16;
  if (numbers.shape.size() != 3 || numbers.values.empty() || numbers.rounded) return false;
  // One layer's counts can look like ids; of several layers each counts the same tokens.
  if (numbers.shape[1] < 2) return false;
  const int64_t top_k = numbers.shape[2];
  const auto [least, most] = std::ranges::minmax(numbers.values);
  if (least < -1 || most < top_k || most >= kMaxTraceExperts || top_k > kMaxTopK ||
      numbers.shape[0] * numbers.shape[1] < kMinRows) {
    return false;
  }
  int64_t num_unequal = 0, previous = 0, row_idx = 0;
  const bool distinct = all_rows(numbers, [&](std::span<const int64_t> row) {
    const int64_t sum = std::accumulate(row.begin(), row.end(), int64_t{0});
    num_unequal += row_idx++ % numbers.shape[1] != 0 && sum != previous;
    previous = sum;
    return are_distinct(row);
  });
  return distinct && num_unequal * 2 > row_idx - numbers.shape[0];
}

Result<ExpertMap> map_of(const NumberArray& numbers) {
  if (numbers.shape.size() != 2 || numbers.values.empty() ||
      std::ranges::max(numbers.shape) > kMaxDimension) {
    return invalid_argument("has shape " + shape_to_text(numbers.shape) +
                            "; expected [layers, physical experts]");
  }
  if (numbers.rounded) return invalid_argument("holds fractions; expert ids are whole numbers");
  ExpertMap map;
  map.num_layers = static_cast<int>(numbers.shape[0]);
  map.num_physical_experts = static_cast<int>(numbers.shape[1]);
  map.physical_to_logical.reserve(numbers.values.size());
  for (const int64_t expert : numbers.values) {
    if (expert < 0 || expert >= map.num_physical_experts) {
      return invalid_argument("names expert " + std::to_string(expert) + ", but " +
                              std::to_string(map.num_physical_experts) +
                              " slots hold experts below that number only");
    }
    map.physical_to_logical.push_back(static_cast<int32_t>(expert));
  }
  return map;
}

}  // namespace plimsoll
