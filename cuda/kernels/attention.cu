// A block takes one item after another: 64 heads of a token over one part of its keys. A warpgroup
// gathers 64 keys at a time into two buffers, and runs ahead into the next item. Two warpgroups
// read them: each works out the logits and weights of half the keys of a step, hands them to the
// other through shared memory, and adds up one half of the dimensions of o over all of them.
#include <algorithm>

#include "cuda/kernels/attention.h"
#include "cuda/kernels/attention_output.cuh"
#include "cuda/kernels/attention_step.cuh"
#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/tensor_map.h"
#include "cuda/kernels/ptx/wgmma.cuh"

namespace plimsoll::gpu {
namespace {

using namespace attending;

constexpr int kFullMachine = 132;  // multiprocessors; only speed hangs on it

// `rotation`: of this token; null: none.
__device__ void finish(const AttentionInput& in,
                       const AttentionOutput& out,
                       int64_t token,
                       int head,
                       int first_column,
                       float (&o)[128],
                       int r,
                       float share,
                       const float2* rotation) {
  const int64_t columns = int64_t{in.heads} * kHeadDim;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int group = 0; group < 2; ++group) {  // of 128 channels
    float largest = 0;
#pragma unroll
    for (int j = 16 * group; j < 16 * group + 16; ++j) {
      float &x = o[4 * j + 2 * r], &y = o[4 * j + 2 * r + 1];
      x *= share;
      y *= share;
      turn_back(rotation, first_column + 8 * j + 2 * t, x, y);
      largest = fmaxf(largest, fmaxf(fabsf(x), fabsf(y)));
    }
    const float scale = e4m3_scale(largest_of_quad(largest));
    const int64_t column = int64_t{head} * kHeadDim + first_column;
    if (out.operand.data != nullptr && out.operand.type == OperandType::kE4m3 && t == 0) {
      write_scale(out, token, column + 128 * group, scale);
    }
#pragma unroll
    for (int j = 16 * group; j < 16 * group + 16; j += 4) {
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = o[4 * (j + i / 2) + 2 * r + i % 2];
      write_columns(out, token, columns, column + 8 * j, v, scale);
    }
  }
}

__device__ void leave_part(const AttentionInput& in,
                           const Parts& parts,
                           int64_t token,
                           int part,
                           int head,
                           int first_column,
                           const float (&o)[128],
                           int r,
                           float peak,
                           float weight) {
  const int64_t row = parts.row(token, part, in.heads) + head;
  const int t = threadIdx.x % 4;
  if (first_column == 0 && t == 0) parts.peak_and_weight[row] = make_float2(peak, weight);
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    *reinterpret_cast<float2*>(parts.sums + row * kHeadDim + first_column + 8 * j + 2 * t) =
        make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
  }
}

// The consumers' part of an item. `step` and `parity`: of all items so far. load_next has the next
// item's queries copied.
template <typename LoadNext>
__device__ void attend_item(const AttentionInput& in,
                            const AttentionOutput& out,
                            const Parts& parts,
                            const Item& item,
                            int& step,
                            int parity,
                            const uint8_t* queries,
                            const uint8_t* buffers,
                            uint8_t* weight_tiles,
                            Shared& shared,
                            LoadNext load_next) {
  const int warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
  const int half = warp / 4, t = threadIdx.x % 4;
  const int row = warp % 4 * 16 + threadIdx.x % 32 / 4;  // and row + 8
  const float scale = in.scale * kLog2E;
  float o[128];
#pragma unroll
  for (float& x : o) x = 0;
  Running softmax;
  const uint64_t queries_at = ptx::smem_descriptor(queries);
  shared.queries.wait(parity);
  for (int first = 0; first < item.num_keys; first += kKeys, ++step) {
    const int buffer = step % kBuffers;
    const uint8_t* tile = buffers + buffer * kTileBytes;
    uint8_t* weights = weight_tiles + step % 2 * kWeightBytes;
    shared.full[buffer].wait(step / kBuffers % 2);
    ptx::fence_async_proxy();
    float logits[kHalfKeys / 2];
    const uint64_t keys_at = ptx::smem_descriptor(tile + half * kHalfKeys * 128);
    ptx::wgmma_begin();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const int at = k / 4 * (kSegmentBytes >> 4) + k % 4 * 2;
      ptx::wgmma_bf16(logits, queries_at + at, keys_at + at, k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_hold(logits);

    float largest[2], shrink[2];
    softmax.mask(logits, item.num_keys - first - half * kHalfKeys, largest);
    float(&peaks)[2][kHeads] = shared.peaks[step % 2];
    if (t < 2) peaks[half][row + 8 * t] = t == 0 ? largest[0] : largest[1];
    ptx::named_barrier(1, kConsumers);
    if (first + kKeys >= item.num_keys && threadIdx.x == 0) load_next();  // q is read
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float other = peaks[1 - half][row + 8 * r];
      shrink[r] = softmax.add(logits, r, fmaxf(largest[r], other), scale);
    }
#pragma unroll
    for (int i = 0; i < kHalfKeys / 2; i += 2) {
      const int r = row + i / 2 % 2 * 8;
      *reinterpret_cast<uint32_t*>(weights + r * 128 + ((half * 4 + i / 4) ^ (r % 8)) * 16 +
                                   4 * t) = pack(logits[i], logits[i + 1]);
    }
    ptx::fence_async_proxy();
    ptx::named_barrier(1, kConsumers);
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] *= shrink[i / 2 % 2];
    const uint64_t weights_at = ptx::smem_descriptor(weights);
    const uint64_t values_at =
        ptx::smem_descriptor_transposed(tile + half * (kTileBytes / 2), kSegmentBytes);
    ptx::wgmma_hold(o);
    ptx::wgmma_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      ptx::wgmma_bf16<1>(o, weights_at + 2 * k, values_at + 128 * k, true);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_hold(o);
    if (threadIdx.x % 32 == 0) shared.empty[buffer].arrive();
  }

  float(&weights)[2][kHeads] = shared.weights[parity];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float weight = sum_of_quad(softmax.weight[r]);
    if (t == 0) weights[half][row + 8 * r] = weight;
  }
  ptx::named_barrier(1, kConsumers);
  if (item.num_keys <= 0 && threadIdx.x == 0) load_next();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int head = item.first_head + row + 8 * r;
    const float weight = weights[0][row + 8 * r] + weights[1][row + 8 * r];
    if (item.all_keys <= kKeysOfPart) {
      const float sink = shared.sink[parity][row + 8 * r] * kLog2E;
      const bool none = item.all_keys == 0;  // o is 0 then, and stays it
      finish(in, out, item.token, head, half * 256, o, r,
             none ? 0 : 1.0f / (weight + exp2f(sink - softmax.peak[r])),
             none || in.rotation == nullptr ? nullptr : shared.rotation[parity]);
    } else {
      leave_part(in, parts, item.token, item.part, head, half * 256, o, r, softmax.peak[r], weight);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1) attend(const __grid_constant__ CUtensorMap query_map,
                                                      const AttentionInput in,
                                                      const AttentionOutput out,
                                                      const Parts parts,
                                                      int num_items) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* const queries = unaligned + (1024 - ptx::shared_address(unaligned) % 1024) % 1024;
  uint8_t* const buffers = queries + kTileBytes;
  uint8_t* const weight_tiles = buffers + kBuffers * kTileBytes;
  Shared& shared = *reinterpret_cast<Shared*>(weight_tiles + 2 * kWeightBytes);
  if (threadIdx.x == 0) {
    shared.queries.init(1);
    for (int b = 0; b < kBuffers; ++b) {
      shared.full[b].init(128);
      shared.empty[b].init(8);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();

  const auto from = [&](int i) {  // the first item that is not void
    while (i < num_items && Item(in, parts, i).is_void()) i += gridDim.x;
    return i;
  };
  const int warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0);
  int step = 0;
  if (warp >= 8) {
    ptx::shrink_registers<72>();
    for (int i = from(blockIdx.x), parity = 0; i < num_items;
         i = from(i + gridDim.x), parity ^= 1) {
      gather(in, Item(in, parts, i), step, parity, buffers, shared);
    }
    return;
  }
  ptx::grow_registers<216>();
  const auto load_queries = [&](int i) {
    if (i >= num_items) return;
    const Item item(in, parts, i);
    shared.queries.arrive_and_expect(kTileBytes);
    for (int s = 0; s < kSegments; ++s) {
      ptx::load_box(&query_map, queries + s * kSegmentBytes, &shared.queries, s * 64,
                    static_cast<int>(item.token * in.heads) + item.first_head);
    }
  };
  int i = from(blockIdx.x);
  if (threadIdx.x == 0) load_queries(i);
  if (i >= num_items) return;
  Item item(in, parts, i);
  for (int parity = 0; i < num_items; parity ^= 1) {
    i = from(i + gridDim.x);
    const Item next(in, parts, min(i, num_items - 1));  // on its way while this one is worked on
    attend_item(in, out, parts, item, step, parity, queries, buffers, weight_tiles, shared,
                [&] { load_queries(i); });
    item = next;
  }
}

// A block merges a token's head: 64 threads of 8 dimensions, the parts in order.
__global__ void __launch_bounds__(64)
    merge(const AttentionInput in, const AttentionOutput out, const Parts parts) {
  const int64_t token = blockIdx.x;
  const int head = blockIdx.y;
  const int count = (in.num_keys[token] + kKeysOfPart - 1) / kKeysOfPart;
  if (count <= 1) return;
  float peak = -INFINITY;
  for (int p = 0; p < count; ++p) {
    peak = fmaxf(peak, parts.peak_and_weight[parts.row(token, p, in.heads) + head].x);
  }
  const int first = threadIdx.x / 4 * 32;  // of a quad's 32 columns, as write_columns has them
  const int column = first + threadIdx.x % 4 * 2;
  float sum[8] = {};
  float weight = 0;
  for (int p = 0; p < count; ++p) {
    const int64_t row = parts.row(token, p, in.heads) + head;
    const float2 part = parts.peak_and_weight[row];
    const float shrink = exp2f(part.x - peak);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 o =
          *reinterpret_cast<const float2*>(parts.sums + row * kHeadDim + column + 8 * j);
      sum[2 * j] = fmaf(o.x, shrink, sum[2 * j]);
      sum[2 * j + 1] = fmaf(o.y, shrink, sum[2 * j + 1]);
    }
    weight = fmaf(part.y, shrink, weight);
  }
  const float share = 1.0f / (weight + exp2f(in.sink[head] * kLog2E - peak));
  const float2* rotation = in.rotation == nullptr ? nullptr : in.rotation + token * (kRotated / 2);
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    sum[i] *= share;
    sum[i + 1] *= share;
    turn_back(rotation, column + 4 * i, sum[i], sum[i + 1]);
    largest = fmaxf(largest, fmaxf(fabsf(sum[i]), fabsf(sum[i + 1])));
  }
  for (int step = 8; step > 0; step /= 2) {  // half a warp has 128 channels
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFF, largest, step));
  }
  const float scale = e4m3_scale(largest);
  const int64_t at = int64_t{head} * kHeadDim + first;
  if (out.operand.data != nullptr && out.operand.type == OperandType::kE4m3 &&
      threadIdx.x % 16 == 0) {
    write_scale(out, token, at, scale);
  }
  write_columns(out, token, int64_t{in.heads} * kHeadDim, at, sum, scale);
}

int parts_of(int max_keys) {
  return max_keys <= kKeysOfPart ? 1 : (max_keys + kKeysOfPart - 1) / kKeysOfPart;
}

bool fits(const AttentionInput& in, const AttentionOutput& out, const void* workspace) {
  const Operand& x = out.operand;
  const bool to_operand = x.data != nullptr && x.rows == in.tokens &&
                          x.columns == in.heads * kHeadDim &&
                          x.type != OperandType::kThreeBfloat16 &&
                          (x.type == OperandType::kE4m3) == (x.scales != nullptr);
  return in.tokens >= 0 && in.heads > 0 && in.heads % kHeads == 0 && in.max_keys > 0 &&
         in.max_keys <= in.key_stride &&
         (to_operand || (x.data == nullptr && out.plain != nullptr)) &&
         (parts_of(in.max_keys) == 1 || workspace != nullptr);
}

}  // namespace

size_t attention_workspace_bytes(int tokens, int heads, int max_keys) {
  const int parts = parts_of(max_keys);
  const size_t rows = size_t(tokens) * parts * heads;
  return parts == 1 ? 0 : rows * (kHeadDim * sizeof(float) + sizeof(float2));
}

cudaError_t attention(const AttentionInput& in,
                      const AttentionOutput& out,
                      void* workspace,
                      cudaStream_t stream) {
  if (!fits(in, out, workspace)) return cudaErrorInvalidValue;
  if (in.tokens == 0) return cudaSuccess;
  const cudaError_t prepared =
      cudaFuncSetAttribute(attend, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (prepared != cudaSuccess) return prepared;
  CUtensorMap map;
  const int64_t rows = int64_t{in.tokens} * in.heads;
  const cudaError_t error = make_tensor_map(
      {in.q, BoxElement::kBfloat16, rows, kHeadDim, kHeadDim * 2, kHeads, 64}, &map);
  if (error != cudaSuccess) return error;
  const int count = parts_of(in.max_keys);
  Parts parts{count, static_cast<float*>(workspace), nullptr};
  if (count > 1) {
    parts.peak_and_weight = reinterpret_cast<float2*>(parts.sums + rows * count * kHeadDim);
  }
  const int items = count * in.tokens * (in.heads / kHeads);
  attend<<<std::min(items, kFullMachine), kThreads, kSharedBytes, stream>>>(map, in, out, parts,
                                                                            items);
  if (count > 1) merge<<<dim3(in.tokens, in.heads), 64, 0, stream>>>(in, out, parts);
  return cudaGetLastError();
}

}  // namespace plimsoll::gpu
