#include "plimsoll/layers.h"

#include <algorithm>

namespace plimsoll {
namespace {

// Rows of `size` values, cut out of `values` and put together in the order of `rows`.
template <typename T>
void append_rows(std::span<const T> values,
                 size_t size,
                 std::span<const int32_t> rows,
                 std::vector<T>& to) {
  for (const int32_t row : rows) {
    const auto one = values.subspan(row * size, size);
    to.insert(to.end(), one.begin(), one.end());
  }
}

}  // namespace

std::vector<int32_t> layers_with_load(const LoadHistory& load) {
  const auto num_experts = static_cast<size_t>(load.num_logical_experts);
  std::vector<uint8_t> busy(load.num_layers, 0);
  for (size_t row = 0; row * num_experts < load.counts.size(); ++row) {
    uint8_t& layer = busy[row % load.num_layers];
    const auto counts = std::span(load.counts).subspan(row * num_experts, num_experts);
    if (!layer) layer = std::ranges::any_of(counts, [](int64_t count) { return count != 0; });
  }
  std::vector<int32_t> layers;
  for (int32_t l = 0; l < load.num_layers; ++l) {
    if (busy[l]) layers.push_back(l);
  }
  return layers;
}

LoadHistory select_layers(const LoadHistory& load, std::span<const int32_t> layers) {
  LoadHistory chosen{load.num_steps, static_cast<int>(layers.size()), load.num_logical_experts, {}};
  const auto num_experts = static_cast<size_t>(load.num_logical_experts);
  const size_t step_size = num_experts * load.num_layers;
  chosen.counts.reserve(num_experts * layers.size() * load.num_steps);
  for (int step = 0; step < load.num_steps; ++step) {
    append_rows(std::span(load.counts).subspan(step * step_size, step_size), num_experts, layers,
                chosen.counts);
  }
  return chosen;
}

Placement select_layers(const Placement& placement, std::span<const int32_t> layers) {
  Placement chosen = placement;
  chosen.num_layers = static_cast<int>(layers.size());
  chosen.physical_to_logical.clear();
  append_rows(std::span(placement.physical_to_logical), placement.num_physical_experts, layers,
              chosen.physical_to_logical);
  return chosen;
}

Placement with_layers(Placement placement, const Placement& part, std::span<const int32_t> layers) {
  for (size_t i = 0; i < layers.size(); ++i) {
    std::ranges::copy(part.layer(static_cast<int>(i)),
                      placement.physical_to_logical.begin() +
                          static_cast<ptrdiff_t>(layers[i]) * placement.num_physical_experts);
  }
  return placement;
}

}  // namespace plimsoll
