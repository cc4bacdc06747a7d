// What an MoE layer has computed for it where its rows lie: in host memory, or on a GPU.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "ep/exchange.h"
#include "plimsoll/result.h"

namespace plimsoll {

// The logical id under which the shared expert is computed.
inline constexpr int kSharedExpert = -1;

class MoeCompute {
 public:
  virtual ~MoeCompute() = default;

  // Whether every rank can read and write the others' rows where they lie.
  virtual bool reaches_all_rows() const = 0;
  // out = weight * expert(row) for every row, each independently of the others; the rows of slot s
  // are for the logical expert slots[s]. Other ranks may read the results once it has returned.
  virtual Status compute_experts(int layer_idx,
                                 std::span<const int32_t> slots,
                                 const ExpertWork& work) = 0;
  // out [num_tokens, hidden_size] = a token's results in order, then its row of `last`, which may
  // be null. results: [num_tokens, num_columns], rows of hidden_size.
  virtual Status sum_results(std::span<const float* const> results,
                             int num_tokens,
                             const float* last,
                             float* out) = 0;

  // Rows of hidden_size to compute into: of the shared expert at home, and of the (token, column)
  // pairs that other ranks write. What they held is lost by the next call for more.
  virtual float* shared_rows(size_t num_rows) = 0;
  virtual float* result_rows(size_t num_rows) = 0;
};

// Computes out = weight * expert(row) for rows of one logical expert.
using ExpertFunction =
    std::function<void(int layer_idx, int logical_expert, std::span<const ExpertRow> rows)>;

class HostMoeCompute final : public MoeCompute {
 public:
  HostMoeCompute(int hidden_size, ExpertFunction function)
      : hidden_size_(hidden_size), function_(std::move(function)) {}

  bool reaches_all_rows() const override { return false; }
  Status compute_experts(int layer_idx,
                         std::span<const int32_t> slots,
                         const ExpertWork& work) override;
  Status sum_results(std::span<const float* const> results,
                     int num_tokens,
                     const float* last,
                     float* out) override;
  float* shared_rows(size_t num_rows) override;
  float* result_rows(size_t num_rows) override;

 private:
  const int hidden_size_;
  const ExpertFunction function_;
  std::vector<float> shared_rows_, result_rows_;
};

}  // namespace plimsoll
