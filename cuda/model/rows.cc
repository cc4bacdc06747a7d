#include "cuda/model/rows.h"

#include "cuda/device/for_each.h"

namespace plimsoll::gpu {
namespace {

struct Embed {
  PackedWeight table;
  const int32_t* tokens;
  int num_streams;
  float* streams;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int pieces = (table.inputs + kDecoded - 1) / kDecoded;
    const int64_t row = i / pieces;
    const int k = static_cast<int>(i % pieces) * kDecoded;
    float values[kDecoded];
    decode_inputs(table, tokens[row / num_streams], k, values);
    for (int j = 0; j < kDecoded && k + j < table.inputs; ++j) {
      streams[row * table.inputs + k + j] = values[j];
    }
  }
};

struct NormRow {
  float* x;
  int64_t stride;
  int dim;
  float eps;
  const float* weight;

  PLIMSOLL_HD void operator()(int64_t i) const {
    float* row = x + i * stride;
    float sum = 0;
    for (int d = 0; d < dim; ++d) sum = multiply_add(row[d], row[d], sum);
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(dim) + eps);
    for (int d = 0; d < dim; ++d) {
      row[d] = weight == nullptr ? row[d] * factor : row[d] * factor * weight[d];
    }
  }
};

struct RotatePair {
  float* x;
  int64_t stride;
  int rows_per_token, dim;
  const float* rotation;
  int width;
  float sign;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int pairs = width / 2;
    const int64_t row = i / pairs;
    const int pair = static_cast<int>(i % pairs);
    const float* angles = rotation + row / rows_per_token * width;
    const float c = angles[pair];
    const float s = angles[pairs + pair] * sign;
    float* at = x + row * stride + dim - width + 2 * pair;
    const float even = at[0];
    const float odd = at[1];
    at[0] = even * c - odd * s;
    at[1] = odd * c + even * s;
  }
};

struct GatherRows {
  const float* from;
  const int32_t* idx;
  int64_t dim;
  float* to;

  PLIMSOLL_HD void operator()(int64_t i) const { to[i] = from[idx[i / dim] * dim + i % dim]; }
};

struct SumResults {
  const float* const* results;
  int num_columns, dim;
  const float* last;
  float* out;

  PLIMSOLL_HD void operator()(int64_t i) const {
    const int d = static_cast<int>(i % dim);
    const float* const* columns = results + i / dim * num_columns;
    float sum = columns[0][d];
    for (int j = 1; j < num_columns; ++j) sum += columns[j][d];
    if (last != nullptr) sum += last[i];
    out[i] = sum;
  }
};

}  // namespace

void embed(Queue& queue,
           const PackedWeight& table,
           const int32_t* tokens,
           int num_tokens,
           int num_streams,
           float* streams) {
  const int pieces = (table.inputs + kDecoded - 1) / kDecoded;
  for_each(queue, int64_t{num_tokens} * num_streams * pieces,
           Embed{table, tokens, num_streams, streams});
}

void norm_rows(
    Queue& queue, float* x, int64_t stride, int num_rows, int dim, float eps, const float* weight) {
  for_each(queue, num_rows, NormRow{x, stride, dim, eps, weight});
}

void rotate_rows(Queue& queue,
                 float* x,
                 int64_t stride,
                 int num_tokens,
                 int rows_per_token,
                 int dim,
                 const float* rotation,
                 int width,
                 bool inverse) {
  for_each(queue, int64_t{num_tokens} * rows_per_token * (width / 2),
           RotatePair{x, stride, rows_per_token, dim, rotation, width, inverse ? -1.0f : 1.0f});
}

void gather_rows(
    Queue& queue, const float* from, const int32_t* idx, int num_rows, int64_t dim, float* to) {
  for_each(queue, num_rows * dim, GatherRows{from, idx, dim, to});
}

void sum_results(Queue& queue,
                 const float* const* results,
                 int num_tokens,
                 int num_columns,
                 int dim,
                 const float* last,
                 float* out) {
  for_each(queue, int64_t{num_tokens} * dim, SumResults{results, num_columns, dim, last, out});
}

}  // namespace plimsoll::gpu
