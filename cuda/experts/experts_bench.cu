// The experts of one layer at DeepSeek-V4-Flash's sizes: right against float64 sums of the decoded
// weights, the same bits for a row alone and among others, and the time of both products beside the
// floor (bytes of the experts at work over a large copy's rate, operations over a large product's).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "cuda/experts/group_rows.h"
#include "cuda/experts/grouped_gemm.h"
#include "cuda/experts/packed_experts.h"

namespace {

using namespace plimsoll;
using namespace plimsoll::gpu;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
T* on_device(size_t count) {
  T* pointer = nullptr;
  check(cudaMalloc(&pointer, std::max<size_t>(count, 1) * sizeof(T)), "cudaMalloc");
  return pointer;
}
template <typename T>
T* on_device(const std::vector<T>& values) {
  T* pointer = on_device<T>(values.size());
  check(cudaMemcpy(pointer, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
        "copy to the device");
  return pointer;
}
template <typename T>
std::vector<T> from_device(const T* pointer, size_t count) {
  std::vector<T> values(count);
  check(cudaMemcpy(values.data(), pointer, count * sizeof(T), cudaMemcpyDeviceToHost),
        "copy from the device");
  return values;
}

struct Sizes {
  int hidden = 4096, intermediate = 2048, experts = 256, top_k = 6;
  float limit = 10;
};

double e4m3_value(uint8_t byte) {
  const __half_raw half = __nv_cvt_fp8_to_halfraw(byte, __NV_E4M3);
  return __half2float(__half(half));
}

// Random values, with scales that keep sums near 1.
struct Matrix {
  WeightFormat format;
  int rows, columns;
  std::vector<uint8_t> values, scales;

  Matrix(WeightFormat of, int num_rows, int num_columns, std::mt19937_64& random)
      : format(of), rows(num_rows), columns(num_columns) {
    const bool fp4 = format == WeightFormat::kFp4;
    values.resize(size_t(rows) * columns / (fp4 ? 2 : 1));
    scales.resize(fp4 ? size_t(rows) * columns / 32 : size_t(blocks(rows)) * blocks(columns));
    for (uint8_t& byte : values) {
      do byte = static_cast<uint8_t>(random());
      while (!fp4 && (byte & 0x7F) > 0x70);  // up to 128, no NaN
    }
    const int size = fp4 ? 1 : 4;  // of a typical value, in powers of two
    const int middle = 127 - size - static_cast<int>(std::log2(std::sqrt(columns)));
    for (uint8_t& byte : scales) byte = static_cast<uint8_t>(middle - 2 + random() % 4);
  }
  static int blocks(int inputs) { return (inputs + 127) / 128; }
  double at(int row, int column) const {
    constexpr double kValues[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
    const size_t place = size_t(row) * columns + column;
    if (format == WeightFormat::kFp8) {
      const uint8_t scale = scales[size_t(row / 128) * blocks(columns) + column / 128];
      return e4m3_value(values[place]) * std::ldexp(1.0, scale - 127);
    }
    const int code = values[place / 2] >> (place % 2 * 4) & 15;
    return (code & 8 ? -1 : 1) * kValues[code & 7] * std::ldexp(1.0, scales[place / 32] - 127);
  }
  CheckpointMatrix view() const { return {values, scales, rows, columns}; }
};

struct Expert {
  Matrix w1, w3, w2;
  Expert(const Sizes& s, WeightFormat format, std::mt19937_64& random)
      : w1(format, s.intermediate, s.hidden, random),
        w3(format, s.intermediate, s.hidden, random),
        w2(format, s.hidden, s.intermediate, random) {}

  std::vector<double> apply(const std::vector<float>& x, double weight, double limit) const {
    std::vector<double> h(w1.rows), y(w2.rows);
    for (int i = 0; i < w1.rows; ++i) {
      double gate = 0, up = 0;
      for (int k = 0; k < w1.columns; ++k) gate += w1.at(i, k) * x[k], up += w3.at(i, k) * x[k];
      gate = std::min(gate, limit);
      h[i] = weight * gate / (1 + std::exp(-gate)) * std::clamp(up, -limit, limit);
    }
    for (int i = 0; i < w2.rows; ++i) {
      for (int k = 0; k < w2.columns; ++k) y[i] += w2.at(i, k) * h[k];
    }
    return y;
  }
};

// Experts of one layer in device memory: each has memory of its own, a few kinds of bytes in turn.
struct Layer {
  std::vector<Expert> kinds;
  ExpertSlot* slots = nullptr;
  WeightFormat format;
  size_t bytes_per_expert = 0;

  Layer(const Sizes& s, WeightFormat of, int num_kinds) : format(of) {
    std::mt19937_64 random(7);
    std::vector<ExpertSlot> all;
    for (int k = 0; k < num_kinds; ++k) kinds.emplace_back(s, format, random);
    for (int e = 0; e < s.experts; ++e) {
      const Expert& kind = kinds[e % num_kinds];
      if (e < num_kinds) {
        const CheckpointMatrix pair[] = {kind.w1.view(), kind.w3.view()};
        const CheckpointMatrix one[] = {kind.w2.view()};
        const auto gate_up = pack_experts(format, Projection::kGateUp, pair);
        const auto down = pack_experts(format, Projection::kDown, one);
        if (!gate_up.ok() || !down.ok()) std::printf("packing failed\n"), std::exit(1);
        sizes_[0] = gate_up->bytes.size();
        sizes_[1] = down->bytes.size();
        all.push_back({on_device(gate_up->bytes), on_device(down->bytes)});
        continue;
      }
      uint8_t* gate_up = on_device<uint8_t>(sizes_[0]);
      uint8_t* down = on_device<uint8_t>(sizes_[1]);
      const ExpertSlot& from = all[e % num_kinds];
      check(cudaMemcpy(gate_up, from.gate_up, sizes_[0], cudaMemcpyDeviceToDevice), "copy");
      check(cudaMemcpy(down, from.down, sizes_[1], cudaMemcpyDeviceToDevice), "copy");
      all.push_back({gate_up, down});
    }
    bytes_per_expert = sizes_[0] + sizes_[1];
    slots = on_device(all);
  }

 private:
  size_t sizes_[2] = {};
};

struct Tokens {
  std::vector<__nv_bfloat16> x;
  std::vector<int> slots;
  std::vector<float> weights;
  int experts_at_work = 0;
};

// Popularity by a power law of 1.01 over experts in random order.
Tokens draw(const Sizes& s, int num_tokens, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> popularity(s.experts);
  for (int e = 0; e < s.experts; ++e) popularity[e] = std::pow(e + 1.0, -1.01);
  std::shuffle(popularity.begin(), popularity.end(), random);
  std::discrete_distribution<int> choose(popularity.begin(), popularity.end());
  std::normal_distribution<float> normal;
  Tokens t;
  std::set<int> work;
  for (int i = 0; i < num_tokens; ++i) {
    std::set<int> chosen;
    while (static_cast<int>(chosen.size()) < s.top_k) chosen.insert(choose(random));
    for (int e : chosen) t.slots.push_back(e), t.weights.push_back(0.1f + random() % 100 * 0.004f);
    work.insert(chosen.begin(), chosen.end());
  }
  const size_t count = size_t(num_tokens) * s.hidden;
  for (size_t i = 0; i < std::min<size_t>(count, 1 << 24); ++i) t.x.push_back(normal(random));
  while (t.x.size() < count) t.x.push_back(t.x[t.x.size() - (1 << 24) + 17]);
  t.experts_at_work = static_cast<int>(work.size());
  return t;
}

// One batch in device memory, and its buffers.
struct Batch {
  RoutedTokens tokens;
  GroupBuffers buffers;
  float* y = nullptr;

  Batch(const Sizes& s, WeightFormat format, const Tokens& t, Activation activation) {
    const int n = static_cast<int>(t.slots.size()) / s.top_k;
    tokens = {n, s.top_k, s.hidden, on_device(t.x), on_device(t.slots), on_device(t.weights)};
    const GroupSizes sizes{activation, WeightFormat::kFp4, n, s.top_k, s.experts,
                           s.hidden,   s.intermediate};
    const size_t bytes = group_buffers(sizes, nullptr).bytes;
    void* memory = on_device<uint8_t>(bytes);
    check(cudaMemset(memory, 0, bytes), "memset");
    buffers = group_buffers(sizes, memory);
    y = on_device<float>(t.slots.size() * s.hidden);
    check(cudaMemset(y, 0xFF, t.slots.size() * s.hidden * 4), "memset");
    memory_ = memory;
  }
  ~Batch() {
    for (const void* p : {(const void*)tokens.x, (const void*)tokens.slots,
                          (const void*)tokens.weights, (const void*)y, (const void*)memory_}) {
      cudaFree(const_cast<void*>(p));
    }
  }
  void gemms(const Sizes& s, const Layer& layer, cudaStream_t stream) const {
    const ExpertShape shape{layer.format, s.hidden, s.intermediate, s.limit};
    const GroupedRows rows = grouped_rows(buffers);
    check(gate_up_gemm(shape, layer.slots, rows, buffers.x, buffers.h, stream), "gate_up_gemm");
    check(down_gemm(shape, layer.slots, rows, buffers.h, y, stream), "down_gemm");
  }

 private:
  void* memory_;
};

double relative_error(const std::vector<double>& expected, const float* found) {
  double off = 0, all = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    off += (found[i] - expected[i]) * (found[i] - expected[i]);
    all += expected[i] * expected[i];
  }
  return std::sqrt(off / all);
}

void check_results(const Sizes& s, const Layer& layer, Activation activation, int num_tokens) {
  const Tokens t = draw(s, num_tokens, 3 + num_tokens);
  Batch batch(s, layer.format, t, activation);
  check(group_rows(batch.tokens, batch.buffers, nullptr), "group_rows");
  batch.gemms(s, layer, nullptr);
  check(cudaDeviceSynchronize(), "products");
  const auto y = from_device(batch.y, t.slots.size() * s.hidden);
  double worst = 0;
  size_t num_bad = 0;
  for (float value : y) num_bad += !std::isfinite(value);
  for (const int choice :
       {0, static_cast<int>(t.slots.size()) / 2, static_cast<int>(t.slots.size()) - 1}) {
    std::vector<float> x(s.hidden);
    for (int k = 0; k < s.hidden; ++k) {
      x[k] = __bfloat162float(t.x[size_t(choice / s.top_k) * s.hidden + k]);
    }
    const Expert& expert = layer.kinds[t.slots[choice] % layer.kinds.size()];
    worst = std::max(worst, relative_error(expert.apply(x, t.weights[choice], s.limit),
                                           &y[size_t(choice) * s.hidden]));
  }
  // The last token alone.
  Tokens alone;
  alone.x.assign(t.x.end() - s.hidden, t.x.end());
  alone.slots.assign(t.slots.end() - s.top_k, t.slots.end());
  alone.weights.assign(t.weights.end() - s.top_k, t.weights.end());
  Batch one(s, layer.format, alone, activation);
  check(group_rows(one.tokens, one.buffers, nullptr), "group_rows");
  one.gemms(s, layer, nullptr);
  check(cudaDeviceSynchronize(), "products");
  const auto z = from_device(one.y, size_t(s.top_k) * s.hidden);
  size_t num_differ = 0;
  for (size_t i = 0; i < z.size(); ++i) {
    num_differ += std::memcmp(&z[i], &y[y.size() - z.size() + i], 4) != 0;
  }
  std::printf(
      "  %s, %s %5d tokens: relative error %.2e, not finite %zu, bits that differ alone %zu\n",
      layer.format == WeightFormat::kFp4 ? "FP4" : "FP8",
      activation == Activation::kFp16 ? "bf16" : "e4m3", num_tokens, worst, num_bad, num_differ);
}

// All rows on one expert, other choices elsewhere: each row's bits are those of the row alone, and
// no other result is written. Then a batch that the buffers are too small for: refused, as a whole.
void check_edges(const Sizes& s, const Layer& layer, Activation activation, int num_tokens) {
  Tokens t = draw(s, num_tokens, 5);
  for (size_t i = 0; i < t.slots.size(); ++i) t.slots[i] = i % s.top_k == 1 ? 3 : -1;
  Tokens alone;
  alone.x.assign(t.x.end() - s.hidden, t.x.end());
  alone.slots.assign(t.slots.end() - s.top_k, t.slots.end());
  alone.weights.assign(t.weights.end() - s.top_k, t.weights.end());
  Batch all(s, layer.format, t, activation), one(s, layer.format, alone, activation);
  for (Batch* batch : {&all, &one}) {
    check(group_rows(batch->tokens, batch->buffers, nullptr), "group_rows");
    batch->gemms(s, layer, nullptr);
  }
  check(cudaDeviceSynchronize(), "products");
  const auto y = from_device(all.y, t.slots.size() * s.hidden);
  const auto z = from_device(one.y, alone.slots.size() * s.hidden);
  size_t num_wrong = 0, num_differ = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    num_wrong += std::isfinite(y[i]) != (t.slots[i / s.hidden] >= 0);
  }
  for (size_t i = 0; i < z.size(); ++i) {
    num_differ += std::memcmp(&z[i], &y[y.size() - z.size() + i], 4) != 0;
  }
  RoutedTokens more = all.tokens;
  more.tokens += 1;
  const bool refused = group_rows(more, all.buffers, nullptr) == cudaErrorInvalidValue;
  std::printf(
      "  one expert, %d rows: wrongly written or not %zu, bits that differ alone %zu; a token too "
      "many is %s\n",
      num_tokens, num_wrong, num_differ, refused ? "refused" : "NOT REFUSED");
}

// The median of `repeats` in us.
template <typename Run>
double median_us(Run run, int repeats = 15) {
  std::vector<float> times;
  cudaEvent_t from, to;
  check(cudaEventCreate(&from), "event");
  check(cudaEventCreate(&to), "event");
  run();
  for (int i = 0; i < repeats; ++i) {
    check(cudaEventRecord(from), "event");
    run();
    check(cudaEventRecord(to), "event");
    check(cudaEventSynchronize(to), "run");
    times.push_back(0);
    check(cudaEventElapsedTime(&times.back(), from, to), "event");
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e3;
}

void time_batch(const Sizes& s, const Layer& layer, Activation activation, int num_tokens) {
  const Tokens t = draw(s, num_tokens, 11);
  Batch batch(s, layer.format, t, activation);
  float* out = on_device<float>(size_t(num_tokens) * s.hidden);
  check(group_rows(batch.tokens, batch.buffers, nullptr), "group_rows");
  const double gemms = median_us([&] { batch.gemms(s, layer, nullptr); });
  const double whole = median_us([&] {
    check(group_rows(batch.tokens, batch.buffers, nullptr), "group_rows");
    batch.gemms(s, layer, nullptr);
    check(sum_choices(batch.tokens, batch.y, nullptr, out, nullptr), "sum_choices");
  });
  cudaFree(out);
  const double bytes = static_cast<double>(t.experts_at_work) * layer.bytes_per_expert;
  const double operations = 6.0 * s.hidden * s.intermediate * t.slots.size();
  const double rate = activation == Activation::kE4m3 ? 1316e12 : 746e12;
  const double floor = std::max(bytes / 4.14e12, operations / rate) * 1e6;
  std::printf("| %s | %d | %d | %.0f | %.0f | %.0f | %.2f | %.0f |\n",
              activation == Activation::kFp16 ? "bf16" : "e4m3", num_tokens, t.experts_at_work,
              gemms, whole, floor, gemms / floor, operations / gemms * 1e-6);
}

}  // namespace

// --check: only the checks at small sizes, for compute-sanitizer.
int main(int argc, char** argv) {
  const Sizes sizes;
  {
    // Sizes that no tile divides; few experts, as FP8 is checked for its results only.
    const Sizes odd{.hidden = 416, .intermediate = 352, .experts = 7, .top_k = 3};
    for (const WeightFormat format : {WeightFormat::kFp4, WeightFormat::kFp8}) {
      const Layer layer(odd, format, 7);
      for (const Activation activation : {Activation::kFp16, Activation::kE4m3}) {
        for (int tokens : {1, 9, 100, 777}) check_results(odd, layer, activation, tokens);
        for (int tokens : {130, 1000}) check_edges(odd, layer, activation, tokens);
      }
    }
  }
  if (argc > 1 && std::strcmp(argv[1], "--check") == 0) return 0;
  const Layer layer(sizes, WeightFormat::kFp4, 4);
  std::printf("an expert of DeepSeek-V4-Flash: %.2f MB\n", layer.bytes_per_expert * 1e-6);
  for (const Activation activation : {Activation::kFp16, Activation::kE4m3}) {
    for (int tokens : {1, 64, 2000}) check_results(sizes, layer, activation, tokens);
  }
  std::printf(
      "| activations | tokens | experts at work | both products, us | whole layer, us | "
      "floor, us | times the floor | TFLOP/s |\n");
  for (const Activation activation : {Activation::kFp16, Activation::kE4m3}) {
    for (int tokens : {1, 8, 64, 256, 1024, 4096, 16384}) {
      time_batch(sizes, layer, activation, tokens);
    }
  }
}
