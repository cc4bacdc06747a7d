// Checks collapse() on the device against its reference, a token alone against the same token among
// others, and times collapse and expand at DeepSeek-V4-Flash's sizes. Exits with 1 if a check
// failed.
#include <cmath>
#include <cstring>

#include "cuda/kernels/bench.cuh"
#include "cuda/kernels/hyper_connection.h"

namespace plimsoll::gpu::bench {
namespace {

struct Problem {
  Buffer<float> mix, base, scale, norm, streams;
  HyperConnection site;

  Problem(int tokens, int hidden)
      : mix(size_t(kMixRows) * kStreams * hidden),
        base(kMixRows),
        scale(3),
        norm(hidden),
        streams(size_t(tokens) * kStreams * hidden) {
    fill_floats<<<256, 256>>>(mix.data(), mix.size(), 1, 0.01f);
    fill_floats<<<1, 32>>>(base.data(), base.size(), 2, 1.0f);
    fill_floats<<<1, 32>>>(scale.data(), scale.size(), 3, 1.0f);
    fill_floats<<<16, 256>>>(norm.data(), norm.size(), 4, 1.0f);
    fill_floats<<<512, 256>>>(streams.data(), streams.size(), 5, 2.0f);
    site = {hidden, mix.data(), base.data(), scale.data()};
    site.norm = norm.data();
  }
};

struct Result {
  std::vector<float> plain, spread;
};

Result run(const Problem& p, int first, int tokens, bool reference, bool pre_only) {
  HyperConnection site = p.site;
  site.pre_only = pre_only;
  Buffer<float> plain(size_t(tokens) * site.hidden), spread(size_t(tokens) * 20);
  Buffer<uint8_t> workspace(collapse_workspace_bytes(tokens, site.hidden));
  plain.poison();
  cudaMemset(spread.data(), 0, spread.size() * 4);
  const float* x = p.streams.data() + int64_t{first} * kStreams * site.hidden;
  if (reference) {
    must(collapse_reference(site, x, tokens, plain.data(), spread.data(), nullptr));
  } else {
    Collapsed out;
    out.plain = plain.data();
    out.spread = spread.data();
    must(collapse(site, x, tokens, out, workspace.data(), nullptr), "collapse");
  }
  must(cudaDeviceSynchronize(), "running collapse");
  return {plain.host(), spread.host()};
}

bool check(int hidden, bool pre_only) {
  constexpr int kAll = 37;
  const Problem p(kAll, hidden);
  const Result y = run(p, 0, kAll, false, pre_only), exact = run(p, 0, kAll, true, pre_only);
  int different = 0;
  for (int i = 0; i < kAll; ++i) {
    const Result one = run(p, i, 1, false, pre_only);
    different += std::memcmp(one.plain.data(), &y.plain[size_t(i) * hidden], hidden * 4) != 0;
    different += std::memcmp(one.spread.data(), &y.spread[size_t(i) * 20], 80) != 0;
  }
  const double far = distance(y.plain, exact.plain), far_spread = distance(y.spread, exact.spread);
  const bool good = far < 2e-6 && far_spread < 2e-6 && different == 0;
  std::printf(
      "collapse, hidden %d%s: distance %.1e, of post and comb %.1e, tokens that differ %d%s\n",
      hidden, pre_only ? ", pre only" : "", far, far_spread, different, good ? "" : "  WRONG");
  return good;
}

// expand's formula on the host for one token.
bool check_expand(int hidden) {
  const int tokens = 3;
  const Problem p(tokens, hidden);
  Buffer<float> o(size_t(tokens) * hidden), spread(size_t(tokens) * 20);
  fill_floats<<<16, 256>>>(o.data(), o.size(), 8, 1.0f);
  fill_floats<<<1, 64>>>(spread.data(), spread.size(), 9, 1.0f);
  const auto x = p.streams.host(), y = o.host(), weights = spread.host();
  must(expand(o.data(), spread.data(), tokens, hidden, p.streams.data(), nullptr), "expand");
  must(cudaDeviceSynchronize());
  const auto got = p.streams.host();
  std::vector<float> want(got.size());
  for (int t = 0; t < tokens; ++t) {
    for (int k = 0; k < kStreams; ++k) {
      for (int d = 0; d < hidden; ++d) {
        double sum = double{weights[t * 20 + k]} * y[size_t(t) * hidden + d];
        for (int j = 0; j < kStreams; ++j) {
          sum += double{weights[t * 20 + 4 + 4 * j + k]} * x[(size_t(t) * 4 + j) * hidden + d];
        }
        want[(size_t(t) * 4 + k) * hidden + d] = sum;
      }
    }
  }
  const double far = distance(got, want);
  std::printf("expand, hidden %d: distance %.1e%s\n", hidden, far, far < 1e-6 ? "" : "  WRONG");
  return far < 1e-6;
}

void time(int tokens) {
  constexpr int kHidden = 4096;
  const Problem p(tokens, kHidden);
  Buffer<float> spread(size_t(tokens) * 20), o(size_t(tokens) * kHidden);
  Buffer<uint8_t> workspace(collapse_workspace_bytes(tokens, kHidden));
  fill_floats<<<256, 256>>>(o.data(), o.size(), 6, 1.0f);
  Operand x{OperandType::kBfloat16Paired, tokens, kHidden};
  Buffer<uint8_t> data(operand_bytes(x));
  x.data = data.data();
  const Collapsed out{nullptr, x, {}, spread.data()};
  const int launches = tokens > 1000 ? 4 : 20;
  const double together = time_us(launches, [&](int, cudaStream_t stream) {
    return collapse(p.site, p.streams.data(), tokens, out, workspace.data(), stream);
  });
  const double apart = time_us(launches, [&](int, cudaStream_t stream) {
    return expand(o.data(), spread.data(), tokens, kHidden, p.streams.data(), stream);
  });
  const double stream_bytes = 4.0 * tokens * kStreams * kHidden;
  const double collapse_floor =
      (stream_bytes + 4.0 * p.mix.size() + 2.0 * tokens * kHidden) / kBytesPerUs;
  const double expand_floor = (2 * stream_bytes + 4.0 * tokens * kHidden) / kBytesPerUs;
  std::printf("| %d | %.1f | %.1f | %.2f | %.1f | %.1f | %.2f |\n", tokens, together,
              collapse_floor, together / collapse_floor, apart, expand_floor, apart / expand_floor);
}

int main_of_bench() {
  bool good = true;
  for (const int hidden : {128, 384, 4096, 7168}) good &= check(hidden, false);
  good &= check(4096, true);
  good &= check_expand(384);
  std::printf(
      "| tokens | collapse, us | floor, us | times floor | expand, us | floor, us | times floor "
      "|\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const int tokens : {1, 16, 64, 256, 1024, 4096}) time(tokens);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace plimsoll::gpu::bench

int main() {
  return plimsoll::gpu::bench::main_of_bench();
}
