#include "cuda/balance/route/device_placement.h"

#include <algorithm>
#include <string>

namespace plimsoll::gpu {

Status prepare_kernels(Size size);  // route.cu

Status to_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return ok_status();
  return unavailable(std::string(what) + " failed: " + cudaGetErrorString(error));
}

namespace {

Result<Shape> shape_of(const RouteTables& t) {
  const RouteOptions& o = t.options;
  const bool are_alike =
      std::all_of(t.rank_cost.begin(), t.rank_cost.end(), [](int32_t cost) { return cost == 1; });
  if (o.algorithm != DispatchAlgorithm::kExact || o.objective != RouteObjective::kTokens ||
      o.waterfill_rule != WaterfillRule::kLevel || o.shared_cost.num != 1 ||
      o.shared_cost.den != 1 || !are_alike) {
    return unsupported(
        "the GPU routes by the exact algorithm for tokens, on ranks alike, with a shared expert of "
        "cost 1 only; route anything else on the CPU");
  }
  if (t.num_ranks > kMaxRanks || t.num_experts > kMaxExperts || t.num_slots > kMaxSlots) {
    return unsupported("the GPU routes up to 128 ranks, 1024 experts and 2048 slots; found " +
                       std::to_string(t.num_ranks) + ", " + std::to_string(t.num_experts) +
                       " and " + std::to_string(t.num_slots));
  }
  return Shape{t.num_ranks, t.num_experts, t.num_slots, o.num_shared_experts,
               o.waterfill && o.num_shared_experts > 0};
}

// 32-bit values, low half first.
void put_wide(std::vector<uint16_t>& packed, int offset, const std::vector<uint32_t>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    packed[offset + 2 * i] = static_cast<uint16_t>(values[i]);
    packed[offset + 2 * i + 1] = static_cast<uint16_t>(values[i] >> 16);
  }
}

// A bit, in sets of so many words.
void add_to_set(std::vector<uint32_t>& sets, int num_words, int set, int element) {
  if (num_words > 0) sets[set * num_words + element / 32] |= 1u << element % 32;
}

}  // namespace

std::vector<uint16_t> pack_tables(const RouteTables& t, const Shape& shape) {
  const TableLayout at(shape);
  const LevelGraph& g = t.graph;
  std::vector<uint16_t> packed(at.size, kNone);
  const auto put = [&](int offset, const std::vector<int32_t>& values) {
    std::transform(values.begin(), values.end(), packed.begin() + offset,
                   [](int32_t v) { return static_cast<uint16_t>(v); });
  };
  packed[at.num_items] = static_cast<uint16_t>(g.num_items);
  packed[at.num_arcs] = static_cast<uint16_t>(g.num_arcs());
  for (int e = 0; e < t.num_experts; ++e) {
    if (t.replicas.count(e) > 1) continue;
    const int slot = t.replicas.slot[t.replicas.begin[e]];
    packed[at.expert_slot + e] = static_cast<uint16_t>(slot);
    packed[at.slot_expert + slot] = static_cast<uint16_t>(e);
  }
  put(at.item_expert, t.item_expert);  // -1 becomes kNone
  put(at.item_begin, g.item_begin);
  put(at.arc_rank, g.arc_rank);
  put(at.arc_item, g.arc_item);
  put(at.rank_arc_begin, g.rank_arc_begin);
  put(at.rank_arcs, g.rank_arcs);
  for (int i = 0; i < g.num_items; ++i) {
    const int expert = t.item_expert[i];
    if (expert < 0) continue;
    packed[at.expert_item + expert] = static_cast<uint16_t>(i);
    for (int c = 0; c < t.replicas.count(expert); ++c) {
      packed[at.arc_slot + g.item_begin[i] + c] =
          static_cast<uint16_t>(t.replicas.slot[t.replicas.begin[expert] + c]);
    }
  }
  put(at.place_rank, t.spread.rank);
  put(at.subtree_end, t.spread.subtree_end);
  put(at.tree_begin, t.spread.tree_begin);
  put(at.tree_end, t.spread.tree_end);
  put(at.arc_out, t.spread.arc_out);
  put(at.arc_in, t.spread.arc_in);
  const int num_rank_words = rank_words(shape.size());
  const int num_arc_words = arc_words(shape.size());
  std::vector<uint32_t> item_ranks(shape.max_items() * num_rank_words, 0);
  std::vector<uint32_t> rank_arcs(shape.num_ranks * num_arc_words, 0);
  std::vector<uint32_t> item_arcs(shape.max_items() * num_arc_words, 0);
  const int first_arc = shape.shared_is_item ? shape.num_ranks : 0;
  for (int a = first_arc; a < g.num_arcs(); ++a) {
    add_to_set(item_ranks, num_rank_words, g.arc_item[a], g.arc_rank[a]);
    add_to_set(rank_arcs, num_arc_words, g.arc_rank[a], a - first_arc);
    add_to_set(item_arcs, num_arc_words, g.arc_item[a], a - first_arc);
  }
  put_wide(packed, at.item_ranks, item_ranks);
  put_wide(packed, at.rank_arc_sets, rank_arcs);
  put_wide(packed, at.item_arc_sets, item_arcs);
  put_wide(packed, at.response,
           std::vector<uint32_t>(t.spread.response.begin(), t.spread.response.end()));
  return packed;
}

Result<std::unique_ptr<DevicePlacement>> DevicePlacement::create(const RouteTables& tables) {
  const Result<Shape> shape = shape_of(tables);
  if (!shape.ok()) return shape.error();
  std::unique_ptr<DevicePlacement> placement(new DevicePlacement(*shape));
  if (Status status = placement->allocate(); !status.ok()) return status.error();
  if (Status status = prepare_kernels(shape->size()); !status.ok()) return status.error();
  if (Status status = placement->stage(tables, nullptr); !status.ok()) return status.error();
  if (Status status = placement->publish(nullptr); !status.ok()) return status.error();
  if (Status status = to_status(cudaStreamSynchronize(nullptr), "copying the placement");
      !status.ok()) {
    return status.error();
  }
  return placement;
}

Status DevicePlacement::allocate() {
  const size_t size = TableLayout(shape_).size * sizeof(uint16_t);
  cudaError_t error = cudaMalloc(&active_, 1);
  for (int i = 0; i < 2 && error == cudaSuccess; ++i) {
    error = cudaMalloc(&tables_[i], size);
    if (error == cudaSuccess) error = cudaMallocHost(&pinned_[i], size);
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&staged_[i], cudaEventDisableTiming);
  }
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&published_, cudaEventDisableTiming);
  return to_status(error, "allocating a placement on the GPU");
}

DevicePlacement::~DevicePlacement() {
  for (int i = 0; i < 2; ++i) {
    cudaFree(tables_[i]);
    cudaFreeHost(pinned_[i]);
    if (staged_[i] != nullptr) cudaEventDestroy(staged_[i]);
  }
  if (published_ != nullptr) cudaEventDestroy(published_);
  cudaFree(active_);
}

Status DevicePlacement::stage(const RouteTables& tables, cudaStream_t stream) {
  const Result<Shape> shape = shape_of(tables);
  if (!shape.ok()) return shape.error();
  if (shape->num_ranks != shape_.num_ranks || shape->num_experts != shape_.num_experts ||
      shape->num_slots != shape_.num_slots ||
      shape->num_shared_experts != shape_.num_shared_experts ||
      shape->shared_is_item != shape_.shared_is_item) {
    return invalid_argument(
        "a placement can be replaced by one of the same ranks, experts, slots and options only; "
        "make a new DevicePlacement and capture the graph again");
  }
  const std::vector<uint16_t> packed = pack_tables(tables, shape_);
  cudaError_t error = cudaEventSynchronize(staged_[idle_]);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(stream, published_, 0);
  if (error == cudaSuccess) {
    std::copy(packed.begin(), packed.end(), pinned_[idle_]);
    error = cudaMemcpyAsync(tables_[idle_], pinned_[idle_], packed.size() * sizeof(uint16_t),
                            cudaMemcpyHostToDevice, stream);
  }
  if (error == cudaSuccess) error = cudaEventRecord(staged_[idle_], stream);
  return to_status(error, "staging a placement");
}

Status DevicePlacement::publish(cudaStream_t stream) {
  cudaError_t error = cudaStreamWaitEvent(stream, staged_[idle_], 0);
  if (error == cudaSuccess) error = cudaMemsetAsync(active_, idle_, 1, stream);
  if (error == cudaSuccess) error = cudaEventRecord(published_, stream);
  idle_ = 1 - idle_;
  return to_status(error, "publishing a placement");
}

}  // namespace plimsoll::gpu
