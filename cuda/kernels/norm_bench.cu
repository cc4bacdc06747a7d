// Checks the norms and the rotation on the device against the formulas in double precision on the
// host, and times them at DeepSeek-V4-Flash's sizes. Exits with 1 if a check failed.
#include <cmath>
#include <cstring>

#include "cuda/kernels/bench.cuh"
#include "cuda/kernels/norm.h"

namespace plimsoll::gpu::bench {
namespace {

std::vector<float2> turns_of(size_t count) {
  std::vector<float2> turns(count);
  for (size_t i = 0; i < count; ++i) turns[i] = {std::cos(0.37f * i), std::sin(0.37f * i)};
  return turns;
}

bool report(const char* what, double far, double tolerance) {
  std::printf("%s: distance %.1e%s\n", what, far, far < tolerance ? "" : "  WRONG");
  return far < tolerance;
}

bool check_heads(int tokens, int heads, int dim, bool weighted, bool bfloat16) {
  const size_t size = size_t(tokens) * heads * dim;
  Buffer<float> x(size), weight(dim);
  Buffer<__nv_bfloat16> half(size), y(size);
  Buffer<float2> rotation(size_t(tokens) * 32);
  Buffer<int32_t> rows(tokens);
  fill_floats<<<64, 256>>>(x.data(), size, 1, 2.0f);
  fill_bfloat16<<<64, 256>>>(half.data(), size, 1, 2.0f);
  fill_floats<<<1, 256>>>(weight.data(), dim, 2, 1.0f);
  const auto turns = turns_of(rotation.size());
  must(cudaMemcpy(rotation.data(), turns.data(), turns.size() * 8, cudaMemcpyHostToDevice));
  std::vector<int32_t> places(tokens);  // back to front
  for (int t = 0; t < tokens; ++t) places[t] = tokens - 1 - t;
  must(cudaMemcpy(rows.data(), places.data(), tokens * 4, cudaMemcpyHostToDevice));
  y.poison();
  Heads h{tokens, heads, dim, true, weighted ? weight.data() : nullptr, rotation.data(), y.data()};
  if (heads == 1) h.rows = rows.data();
  const void* data = bfloat16 ? static_cast<const void*>(half.data()) : x.data();
  must(norm_and_rotate({data, bfloat16, int64_t{heads} * dim}, h, nullptr), "norm_and_rotate");
  must(cudaDeviceSynchronize(), "running norm_and_rotate");
  const auto in = x.host(), w = weight.host();
  const auto in_half = half.host(), out = y.host();
  std::vector<double> got(size), want(size);
  for (int i = 0; i < tokens * heads; ++i) {
    const int token = i / heads;
    const size_t to = size_t(heads == 1 ? places[token] : i) * dim;
    double squares = 0;
    std::vector<double> v(dim);
    for (int k = 0; k < dim; ++k) {
      v[k] = bfloat16 ? __bfloat162float(in_half[size_t(i) * dim + k]) : in[size_t(i) * dim + k];
      squares += v[k] * v[k];
    }
    for (int k = 0; k < dim; ++k) v[k] *= (weighted ? w[k] : 1) / std::sqrt(squares / dim + 1e-6);
    for (int k = dim - 64; k < dim; k += 2) {
      const float2 turn = turns[token * 32 + (k - dim + 64) / 2];
      const double a = v[k], b = v[k + 1];
      v[k] = a * turn.x - b * turn.y;
      v[k + 1] = a * turn.y + b * turn.x;
    }
    for (int k = 0; k < dim; ++k) {
      want[to + k] = v[k];
      got[to + k] = __bfloat162float(out[to + k]);
    }
  }
  return report("norm and rotate to bf16", distance(got, want), 3e-3);
}

bool check_rows(int rows, int columns) {
  const size_t size = size_t(rows) * columns;
  Buffer<float> x(size), weight(columns);
  fill_floats<<<64, 256>>>(x.data(), size, 1, 2.0f);
  fill_floats<<<8, 256>>>(weight.data(), columns, 2, 1.0f);
  Operand to{OperandType::kThreeBfloat16, rows, columns};
  Buffer<__nv_bfloat16> y(size * 3);
  y.poison();
  to.data = y.data();
  must(rms_norm({x.data(), false, columns}, weight.data(), to, nullptr), "rms_norm");
  must(cudaDeviceSynchronize(), "running rms_norm");
  const auto in = x.host(), w = weight.host();
  const auto out = y.host();
  std::vector<double> got(size), want(size);
  for (int r = 0; r < rows; ++r) {
    double squares = 0;
    for (int k = 0; k < columns; ++k) squares += std::pow(double{in[size_t(r) * columns + k]}, 2);
    for (int k = 0; k < columns; ++k) {
      want[size_t(r) * columns + k] =
          in[size_t(r) * columns + k] * double{w[k]} / std::sqrt(squares / columns + 1e-6);
      for (int part = 0; part < 3; ++part) {
        got[size_t(r) * columns + k] += __bfloat162float(out[(size_t(r) * 3 + part) * columns + k]);
      }
    }
  }
  return report("RMSNorm to three bf16", distance(got, want), 1e-6);
}

void time(int tokens) {
  Buffer<float> q(size_t(tokens) * 32768), rank(size_t(tokens) * 1024), weight(1024);
  Buffer<float2> rotation(size_t(tokens) * 32);
  Buffer<__nv_bfloat16> y(q.size()), ready(rank.size());
  fill_floats<<<512, 256>>>(q.data(), q.size(), 1, 1.0f);
  fill_floats<<<512, 256>>>(rank.data(), rank.size(), 1, 1.0f);
  fill_floats<<<8, 256>>>(weight.data(), weight.size(), 2, 1.0f);
  const auto turns = turns_of(rotation.size());
  must(cudaMemcpy(rotation.data(), turns.data(), turns.size() * 8, cudaMemcpyHostToDevice));
  const Heads h{tokens, 64, 512, true, nullptr, rotation.data(), y.data()};
  const Operand to{OperandType::kBfloat16Paired, tokens, 1024, ready.data()};
  const double heads = time_us(10, [&](int, cudaStream_t stream) {
    return norm_and_rotate({q.data(), false, 32768}, h, stream);
  });
  const double rows = time_us(10, [&](int, cudaStream_t stream) {
    return rms_norm({rank.data(), false, 1024}, weight.data(), to, stream);
  });
  const double heads_floor = 6.0 * q.size() / kBytesPerUs,
               rows_floor = 6.0 * rank.size() / kBytesPerUs;
  std::printf("| %d | %.1f | %.1f | %.1f | %.1f |\n", tokens, heads, heads_floor, rows, rows_floor);
}

int main_of_bench() {
  bool good = check_heads(7, 64, 512, false, false);
  good &= check_heads(13, 1, 512, true, false);
  good &= check_heads(13, 1, 128, true, true);
  good &= check_heads(5, 64, 128, false, true);
  good &= check_rows(3, 128) & check_rows(9, 1024) & check_rows(2, 1536);
  std::printf(
      "| tokens | norm and rotate 64 heads of 512, us | floor | RMSNorm of 1,024, us | floor |\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: |\n");
  for (const int tokens : {1, 64, 4096}) time(tokens);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace plimsoll::gpu::bench

int main() {
  return plimsoll::gpu::bench::main_of_bench();
}
