// Checks attention() on the device against its reference, a token alone against the same token
// among others, and times it at DeepSeek-V4-Flash's sizes. Exits with 1 if a check failed.
#include <cuda_fp8.h>

#include <cmath>
#include <cstring>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/bench.cuh"

namespace plimsoll::gpu::bench {
namespace {

__global__ void fill_rows(int32_t* to, size_t size, uint64_t seed, int num_rows) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size;
       i += size_t{gridDim.x} * blockDim.x) {
    to[i] = static_cast<int32_t>(mix(seed * 0x9E3779B97F4A7C15 + i) % num_rows);
  }
}

struct Problem {
  Buffer<__nv_bfloat16> q, keys;
  Buffer<int32_t> key_rows, num_keys;
  Buffer<float> sink;
  Buffer<float2> rotation;
  AttentionInput in;

  Problem(int tokens, int heads, int pool, const std::vector<int32_t>& counts, int max_keys)
      : q(size_t(tokens) * heads * kHeadDim),
        keys(size_t(pool) * kHeadDim),
        key_rows(size_t(tokens) * max_keys),
        num_keys(tokens),
        sink(heads),
        rotation(size_t(tokens) * 32),
        in{tokens,          heads,           q.data(),
           keys.data(),     key_rows.data(), max_keys,
           num_keys.data(), max_keys,        1.0f / std::sqrt(512.0f),
           sink.data(),     rotation.data()} {
    fill_bfloat16<<<512, 256>>>(q.data(), q.size(), 1, 1.5f);
    fill_bfloat16<<<512, 256>>>(keys.data(), keys.size(), 2, 1.5f);
    fill_rows<<<512, 256>>>(key_rows.data(), key_rows.size(), 3, pool);
    fill_floats<<<1, 256>>>(sink.data(), heads, 4, 1.0f);
    std::vector<float2> turns(rotation.size());
    for (size_t i = 0; i < turns.size(); ++i) turns[i] = {std::cos(0.1f * i), std::sin(0.1f * i)};
    must(cudaMemcpy(rotation.data(), turns.data(), turns.size() * 8, cudaMemcpyHostToDevice));
    must(cudaMemcpy(num_keys.data(), counts.data(), counts.size() * 4, cudaMemcpyHostToDevice));
  }
};

// Of `tokens` tokens from `first` on.
std::vector<float> run(AttentionInput in, int first, int tokens, int max_keys) {
  in.q += int64_t{first} * in.heads * kHeadDim;
  in.key_rows += first * in.key_stride;
  in.num_keys += first;
  in.rotation += first * 32;
  in.tokens = tokens;
  in.max_keys = max_keys;
  Buffer<float> y(size_t(tokens) * in.heads * kHeadDim);
  Buffer<uint8_t> workspace(attention_workspace_bytes(tokens, in.heads, max_keys));
  y.poison();
  must(attention(in, {{}, y.data()}, workspace.data(), nullptr), "attention");
  must(cudaDeviceSynchronize(), "running attention");
  return y.host();
}

int differing(const std::vector<float>& a, const float* b) {
  int count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += std::memcmp(&a[i], &b[i], 4) != 0;
  return count;
}

// What an operand says in float32.
std::vector<float> plain_of(OperandType type, const AttentionInput& in, int max_keys) {
  Operand x{type, in.tokens, in.heads * kHeadDim};
  Buffer<uint8_t> data(operand_bytes(x)), scales(operand_scale_bytes(x));
  Buffer<uint8_t> workspace(attention_workspace_bytes(in.tokens, in.heads, max_keys));
  data.poison();
  x.data = data.data();
  if (type == OperandType::kE4m3) x.scales = reinterpret_cast<float*>(scales.data());
  must(attention(in, {x, nullptr}, workspace.data(), nullptr), "attention to an operand");
  must(cudaDeviceSynchronize());
  const auto bytes = data.host(), scale_bytes = scales.host();
  std::vector<float> y(size_t(x.rows) * x.columns);
  for (size_t i = 0; i < y.size(); ++i) {
    const int row = i / x.columns, k = i % x.columns;
    if (type == OperandType::kE4m3) {
      const __half_raw raw = __nv_cvt_fp8_to_halfraw(bytes[i], __NV_E4M3);
      float scale;
      std::memcpy(&scale, &scale_bytes[(k / 128 * scale_stride(x.rows) + row) * 4], 4);
      y[i] = __half2float(__half(raw)) * scale;
    } else {
      const size_t at =
          i / 16 * 16 + (type == OperandType::kBfloat16Paired ? paired_place(k % 16) : k % 16);
      __nv_bfloat16 half;
      std::memcpy(&half, &bytes[at * 2], 2);
      y[i] = __bfloat162float(half);
    }
  }
  return y;
}

bool check() {
  // None, fewer keys than a step, a whole step, several parts; the last list is the longest.
  const std::vector<int32_t> counts = {1,   0,    63,   64,   65,   127,  128, 200, 640,
                                       768, 1023, 1024, 1025, 1100, 2049, 37,  300, 2500};
  const int tokens = static_cast<int>(counts.size());
  const Problem p(tokens, 128, 5000, counts, 2500);
  const size_t row = size_t(128) * kHeadDim;
  const auto y = run(p.in, 0, tokens, 2500);
  Buffer<float> reference(y.size());
  must(attention_reference(p.in, reference.data(), nullptr));
  must(cudaDeviceSynchronize(), "the reference");
  const auto exact = reference.host();
  const double far = distance(y, exact);
  int different = 0;
  for (int i = 0; i < tokens; ++i) {
    different += differing(run(p.in, i, 1, std::max(1, counts[i])), &y[i * row]);
    different += differing(run(p.in, i, 1, 2500), &y[i * row]);
  }
  bool good = far < 4e-3 && different == 0;
  std::printf(
      "attention, %d tokens of 128 heads: distance %.1e, elements whose bits differ alone %d",
      tokens, far, different);
  for (const OperandType type :
       {OperandType::kBfloat16, OperandType::kBfloat16Paired, OperandType::kE4m3}) {
    const double operand = distance(plain_of(type, p.in, 2500), y);
    std::printf(", as operand %d: %.1e", static_cast<int>(type), operand);
    good &= operand < (type == OperandType::kE4m3 ? 4e-2 : 3e-3);
  }
  std::printf("%s\n", good ? "" : "  WRONG");
  return good;
}

void time(int tokens, int keys, int pool) {
  const Problem p(tokens, 64, pool, std::vector<int32_t>(tokens, keys), keys);
  Operand x{OperandType::kBfloat16Paired, tokens, 64 * kHeadDim};
  Buffer<uint8_t> data(operand_bytes(x));
  Buffer<uint8_t> workspace(attention_workspace_bytes(tokens, 64, keys));
  x.data = data.data();
  const double us = time_us(tokens > 1000 ? 2 : 10, [&](int, cudaStream_t stream) {
    return attention(p.in, {x, nullptr}, workspace.data(), stream);
  });
  const double operations = 4.0 * tokens * keys * 64 * kHeadDim;
  const double bytes =
      4.0 * tokens * 64 * kHeadDim + 2.0 * kHeadDim * std::min<double>(pool, double(tokens) * keys);
  const double floor = std::max(operations / kBfloat16PerUs, bytes / kBytesPerUs);
  std::printf("| %d | %d | %.1f | %.1f | %.2f | %.0f |\n", tokens, keys, us, floor, us / floor,
              operations / us * 1e-6);
}

int main_of_bench() {
  const bool good = check();
  std::printf("| tokens | keys each | us | floor, us | times floor | TFLOP/s |\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const int keys : {128, 640, 2176}) {
    time(1, keys, 8192);
    time(16, keys, 131072);
    time(64, keys, 262144);
    time(256, keys, 262144);
    if (keys < 1024) time(4096, keys, 8192);
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace plimsoll::gpu::bench

int main() {
  return plimsoll::gpu::bench::main_of_bench();
}
