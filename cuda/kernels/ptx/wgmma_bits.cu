// What a row's bits depend on in Hopper's matrix product: prints a table, one line per way to
// compute the same rows, with how many of their elements differ from the first way's. The kernels'
// rules (docs/benchmarks-gpu.md) follow from it.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/kernels/ptx/wgmma.cuh"

namespace plimsoll::gpu {
namespace {

constexpr int kRowBytes = 4096;  // of K: 2,048 bf16 or 4,096 e4m3
constexpr int kTile = 128;       // bytes of K at a time
constexpr int kTokens = 8;       // rows compared
constexpr int kOuts = 64;

void must(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "wgmma_bits: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

__device__ void load_tile(const uint8_t* from, int rows, int chunk, uint8_t* to) {
  for (int i = threadIdx.x; i < rows * 8; i += blockDim.x) {
    const int row = i / 8, piece = i % 8;
    *reinterpret_cast<uint4*>(to + row * kTile + (piece ^ (row % 8)) * 16) =
        *reinterpret_cast<const uint4*>(from + size_t(row) * kRowBytes + chunk * kTile +
                                        piece * 16);
  }
}

__device__ uint32_t word(const uint8_t* tile, int row, int byte) {
  return *reinterpret_cast<const uint32_t*>(tile + row * kTile + ((byte / 16) ^ (row % 8)) * 16 +
                                            byte % 16);
}

// out[64, kN] = a[64, K] · b[kN, K]
template <int kN, bool kE4m3, bool kRegisters>
__global__ void multiply(const uint8_t* a, const uint8_t* b, float* out) {
  extern __shared__ __align__(1024) uint8_t smem[];
  uint8_t* tile_a = smem;
  uint8_t* tile_b = smem + 64 * kTile;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float d[kN / 2];
  for (int chunk = 0; chunk < kRowBytes / kTile; ++chunk) {
    __syncthreads();
    load_tile(a, 64, chunk, tile_a);
    load_tile(b, kN, chunk, tile_b);
    ptx::fence_async_proxy();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int row = warp * 16 + g;
      const uint32_t fragment[] = {
          word(tile_a, row, 32 * k + 4 * t), word(tile_a, row + 8, 32 * k + 4 * t),
          word(tile_a, row, 32 * k + 16 + 4 * t), word(tile_a, row + 8, 32 * k + 16 + 4 * t)};
      const uint64_t da = ptx::smem_descriptor(tile_a) + 2 * k;
      const uint64_t db = ptx::smem_descriptor(tile_b) + 2 * k;
      ptx::wgmma_hold(d);
      ptx::wgmma_begin();
      if constexpr (kE4m3 && kRegisters) ptx::wgmma_e4m3(d, fragment, db, chunk + k > 0);
      if constexpr (kE4m3 && !kRegisters) ptx::wgmma_e4m3(d, da, db, chunk + k > 0);
      if constexpr (!kE4m3 && kRegisters) ptx::wgmma_bf16(d, fragment, db, chunk + k > 0);
      if constexpr (!kE4m3 && !kRegisters) ptx::wgmma_bf16(d, da, db, chunk + k > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::wgmma_hold(d);
    }
  }
  for (int i = 0; i < kN / 2; ++i) {
    out[(warp * 16 + g + i / 2 % 2 * 8) * kN + i / 4 * 8 + t * 2 + i % 2] = d[i];
  }
}

using Bytes = std::vector<uint8_t>;

// Rows with magnitudes spread over some binary orders, so that the order of a sum shows.
Bytes random_rows(std::mt19937& random, int rows, bool e4m3) {
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> order(-3, 3);
  Bytes bytes(size_t(rows) * kRowBytes);
  for (size_t i = 0; i < bytes.size(); i += e4m3 ? 1 : 2) {
    const float x = std::ldexp(normal(random), order(random));
    if (e4m3) {
      bytes[i] = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    } else {
      const __nv_bfloat16 rounded = __float2bfloat16(x);
      std::memcpy(&bytes[i], &rounded, 2);
    }
  }
  return bytes;
}

double value(const Bytes& rows, int row, int k, bool e4m3) {
  if (e4m3) {
    const __half_raw raw = __nv_cvt_fp8_to_halfraw(rows[size_t(row) * kRowBytes + k], __NV_E4M3);
    return __half2float(__half(raw));
  }
  __nv_bfloat16 x;
  std::memcpy(&x, &rows[size_t(row) * kRowBytes + 2 * k], 2);
  return __bfloat162float(x);
}

void set_row(Bytes& rows, int to, const Bytes& source, int from) {
  std::memcpy(&rows[size_t(to) * kRowBytes], &source[size_t(from) * kRowBytes], kRowBytes);
}

template <int kN, bool kE4m3, bool kRegisters>
std::vector<float> run(const Bytes& a, const Bytes& b) {
  uint8_t *da, *db;
  float* out;
  std::vector<float> result(64 * kN);
  must(cudaMalloc(&da, a.size()));
  must(cudaMalloc(&db, b.size()));
  must(cudaMalloc(&out, result.size() * 4));
  must(cudaMemcpy(da, a.data(), a.size(), cudaMemcpyHostToDevice));
  must(cudaMemcpy(db, b.data(), b.size(), cudaMemcpyHostToDevice));
  must(cudaMemset(out, 0xFF, result.size() * 4));
  const int smem = (64 + kN) * kTile;
  must(cudaFuncSetAttribute(multiply<kN, kE4m3, kRegisters>,
                            cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  multiply<kN, kE4m3, kRegisters><<<1, 128, smem>>>(da, db, out);
  must(cudaGetLastError());
  must(cudaMemcpy(result.data(), out, result.size() * 4, cudaMemcpyDeviceToHost));
  must(cudaFree(da));
  must(cudaFree(db));
  must(cudaFree(out));
  return result;
}

template <bool kE4m3>
struct Probe {
  std::mt19937 random{7};
  Bytes weights = random_rows(random, 256, kE4m3);  // the first 64 are what is compared
  Bytes tokens = random_rows(random, kTokens, kE4m3);
  std::vector<float> first;  // [kTokens, kOuts]

  void line(const char* what, const char* others, int n, const std::vector<float>& y) {
    if (first.empty()) first = y;
    int differ = 0;
    for (size_t i = 0; i < y.size(); ++i) differ += std::memcmp(&y[i], &first[i], 4) != 0;
    std::printf("| %s | %s | %s | n%d | %d of %zu |\n", kE4m3 ? "e4m3" : "bf16", what, others, n,
                differ, y.size());
  }

  // Tokens as the columns of d, `place` rows into the tile.
  template <int kN, bool kRegisters>
  void as_b(const char* what, const char* others, int place, bool zeros) {
    Bytes b = zeros ? Bytes(size_t(kN) * kRowBytes) : random_rows(random, kN, kE4m3);
    for (int i = 0; i < kTokens; ++i) set_row(b, (place + i * 3) % kN, tokens, i);
    const auto d = run<kN, kE4m3, kRegisters>(weights, b);
    std::vector<float> y(kTokens * kOuts);
    for (int i = 0; i < kTokens; ++i) {
      for (int o = 0; o < kOuts; ++o) y[i * kOuts + o] = d[o * kN + (place + i * 3) % kN];
    }
    line(what, others, kN, y);
  }

  // Tokens as the rows of d; the weights' rows are its columns, kN at a time.
  template <int kN, bool kRegisters>
  void as_a(const char* what, const char* others, int place) {
    Bytes a = random_rows(random, 64, kE4m3);
    for (int i = 0; i < kTokens; ++i) set_row(a, (place + i * 11) % 64, tokens, i);
    std::vector<float> y(kTokens * kOuts);
    for (int begin = 0; begin < kOuts; begin += kN) {
      const Bytes b(weights.begin() + begin * kRowBytes,
                    weights.begin() + size_t(begin + kN) * kRowBytes);
      const auto d = run<kN, kE4m3, kRegisters>(a, b);
      for (int i = 0; i < kTokens; ++i) {
        for (int o = begin; o < std::min(kOuts, begin + kN); ++o) {
          y[i * kOuts + o] = d[(place + i * 11) % 64 * kN + o - begin];
        }
      }
    }
    line(what, others, kN, y);
  }

  template <int kN>
  void shape() {
    as_b<kN, false>("b, a in shared memory", "random", 0, false);
    as_b<kN, false>("b, a in shared memory", "0", 0, true);
    as_b<kN, false>("b, other places", "random", 5, false);
    as_b<kN, true>("b, a in registers", "random", 3, false);
    as_a<kN, false>("a, in shared memory", "random", 0);
    as_a<kN, true>("a, in registers", "random", 7);
  }

  void against_float64() {
    double worst = 0;
    for (int i = 0; i < kTokens; ++i) {
      for (int o = 0; o < kOuts; ++o) {
        double sum = 0, size = 0;
        for (int k = 0; k < kRowBytes / (kE4m3 ? 1 : 2); ++k) {
          const double term = value(tokens, i, k, kE4m3) * value(weights, o, k, kE4m3);
          sum += term;
          size += std::abs(term);
        }
        worst = std::max(worst, std::abs(first[i * kOuts + o] - sum) / size);
      }
    }
    std::printf("%s: largest |error| / sum of |terms| over %d terms in one chain: %.2e\n",
                kE4m3 ? "e4m3" : "bf16", kRowBytes / (kE4m3 ? 1 : 2), worst);
  }

  void all() {
    std::printf("| operands | tokens are | other rows | shape | elements that differ |\n");
    std::printf("| --- | --- | --- | --- | --- |\n");
    shape<8>();
    shape<16>();
    shape<32>();
    shape<64>();
    shape<128>();
    shape<256>();
    against_float64();
  }
};

}  // namespace
}  // namespace plimsoll::gpu

int main() {
  plimsoll::gpu::Probe<false>{}.all();
  plimsoll::gpu::Probe<true>{}.all();
}
