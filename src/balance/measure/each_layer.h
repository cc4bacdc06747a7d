// Work on layers that do not need each other, on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace plimsoll {

// Calls work(layer) once for each layer, in no order. num_threads 0: as many as there are cores.
template <typename Work>
void for_each_layer(int num_layers, int num_threads, Work work) {
  std::atomic<int> next = 0;
  const auto run_some = [&] {
    for (int layer = next++; layer < num_layers; layer = next++) work(layer);
  };
  if (num_threads == 0) num_threads = static_cast<int>(std::thread::hardware_concurrency());
  std::vector<std::jthread> helpers;
  for (int i = 1; i < std::min(num_threads, num_layers); ++i) helpers.emplace_back(run_some);
  run_some();
}

}  // namespace plimsoll
