// What is done to rows of hidden channels: embedding, norms, rotations. Plain float32 kernels.
#pragma once

#include "cuda/device/queue.h"
#include "cuda/model/packed_weight.h"

namespace plimsoll::gpu {

// streams [num_tokens, num_streams, D]: every stream of a token starts as its row of the table.
void embed(Queue& queue,
           const PackedWeight& table,
           const int32_t* tokens,
           int num_tokens,
           int num_streams,
           float* streams);

// x[i] *= weight / sqrt(mean of x[i]² + eps), in place; rows of `dim`, `stride` floats apart.
// `weight` [dim] may be null: all ones.
void norm_rows(
    Queue& queue, float* x, int64_t stride, int num_rows, int dim, float eps, const float* weight);

// Turns the last `width` channels of rows [num_tokens, rows_per_token, dim], `stride` floats apart,
// in interleaved pairs by each token's angles; backwards where `inverse`. rotation: [num_tokens,
// 2, width / 2], cosines, then sines.
void rotate_rows(Queue& queue,
                 float* x,
                 int64_t stride,
                 int num_tokens,
                 int rows_per_token,
                 int dim,
                 const float* rotation,
                 int width,
                 bool inverse);

// to[i] = from[idx[i]], rows of `dim`.
void gather_rows(
    Queue& queue, const float* from, const int32_t* idx, int num_rows, int64_t dim, float* to);

// out [num_tokens, dim] = the results of a token's columns in order, then `last` [num_tokens, dim]
// where it is not null. results: [num_tokens, num_columns], each of `dim` channels.
void sum_results(Queue& queue,
                 const float* const* results,
                 int num_tokens,
                 int num_columns,
                 int dim,
                 const float* last,
                 float* out);

}  // namespace plimsoll::gpu
