#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "balance/eplb/eplb_check.h"
#include "balance/eplb/packing.h"
#include "plimsoll/eplb.h"

namespace plimsoll {
namespace {

// One layer at a time; the buffers are shared between layers.
class DeepSeek {
 public:
  explicit DeepSeek(const EplbSizes& sizes)
      : s_(sizes),
        logical_of_node_expert_(sizes.num_logical_experts),
        node_load_(sizes.num_logical_experts / sizes.num_nodes),
        scores_(node_load_.size()),
        copies_(node_load_.size()),
        expert_of_copy_(sizes.num_physical_experts / sizes.num_nodes),
        index_of_copy_(expert_of_copy_.size()),
        copy_load_(expert_of_copy_.size()),
        pack_index_(expert_of_copy_.size()),
        rank_in_pack_(expert_of_copy_.size()) {}

  void run(std::span<const float> load, int layer, EplbAnswer& answer) {
    deal_groups_to_nodes(load);
    const int experts = static_cast<int>(node_load_.size());
    const int slots = static_cast<int>(expert_of_copy_.size());
    const int slots_per_rank = s_.num_physical_experts / s_.num_ranks;
    const size_t slot_base = static_cast<size_t>(layer) * s_.num_physical_experts;
    const size_t expert_base = static_cast<size_t>(layer) * s_.num_logical_experts;
    for (int node = 0; node < s_.num_nodes; ++node) {
      const int32_t* logical = &logical_of_node_expert_[static_cast<size_t>(node) * experts];
      for (int i = 0; i < experts; ++i) node_load_[i] = load[logical[i]];
      replicate();
      pack(copy_load_, s_.num_ranks / s_.num_nodes, pack_index_, rank_in_pack_);
      for (int i = 0; i < slots; ++i) {
        const size_t slot = slot_base + static_cast<size_t>(node) * slots +
                            pack_index_[i] * slots_per_rank + rank_in_pack_[i];
        answer.physical_to_logical[slot] = logical[expert_of_copy_[i]];
        answer.replica_index[slot] = index_of_copy_[i];
      }
      for (int i = 0; i < experts; ++i) answer.logical_count[expert_base + logical[i]] = copies_[i];
    }
  }

 private:
  void pack(std::span<const float> weights,
            int num_packs,
            std::span<int32_t> pack_index,
            std::span<int32_t> rank_in_pack) {
    if (weights.size() > static_cast<size_t>(num_packs)) {
      return packer_.pack(weights, num_packs, pack_index, rank_in_pack);
    }
    std::iota(pack_index.begin(), pack_index.end(), 0);  // packs of one are not sorted
    std::fill(rank_in_pack.begin(), rank_in_pack.end(), 0);
  }

  void deal_groups_to_nodes(std::span<const float> load) {
    if (s_.num_nodes == 1 && s_.num_groups == 1) {
      std::iota(logical_of_node_expert_.begin(), logical_of_node_expert_.end(), 0);
      return;
    }
    const int group_size = s_.num_logical_experts / s_.num_groups;
    const int groups_per_node = s_.num_groups / s_.num_nodes;
    group_load_.resize(s_.num_groups);
    group_node_.resize(s_.num_groups);
    group_rank_.resize(s_.num_groups);
    for (int g = 0; g < s_.num_groups; ++g) {
      double sum = 0;
      for (int i = 0; i < group_size; ++i) sum += load[g * group_size + i];
      group_load_[g] = static_cast<float>(sum);
    }
    pack(group_load_, s_.num_nodes, group_node_, group_rank_);
    for (int g = 0; g < s_.num_groups; ++g) {
      const int position = (group_node_[g] * groups_per_node + group_rank_[g]) * group_size;
      for (int i = 0; i < group_size; ++i) {
        logical_of_node_expert_[position + i] = g * group_size + i;
      }
    }
  }

  // Every expert gets a copy; each further one goes where the load per copy is largest.
  void replicate() {
    const size_t experts = node_load_.size();
    std::fill(copies_.begin(), copies_.end(), 1);
    for (size_t i = 0; i < experts; ++i) {
      // The heap gives its least: the complement of the largest load, lowest index first.
      scores_[i] = ~order_key(node_load_[i], ~static_cast<uint32_t>(i));
    }
    if (expert_of_copy_.size() > experts) most_loaded_.assign(scores_);
    for (size_t i = 0; i < expert_of_copy_.size(); ++i) {
      int32_t expert = static_cast<int32_t>(i);
      index_of_copy_[i] = 0;
      if (i >= experts) {
        expert = static_cast<int32_t>(key_index(most_loaded_.top()));
        index_of_copy_[i] = copies_[expert]++;
        const float load = node_load_[expert] / static_cast<float>(copies_[expert]);
        most_loaded_.replace_top(~order_key(load, ~static_cast<uint32_t>(expert)));
      }
      expert_of_copy_[i] = expert;
    }
    for (size_t i = 0; i < expert_of_copy_.size(); ++i) {
      const int32_t expert = expert_of_copy_[i];
      copy_load_[i] = node_load_[expert] / static_cast<float>(copies_[expert]);
    }
  }

  const EplbSizes s_;
  std::vector<float> group_load_;
  std::vector<int32_t> group_node_;
  std::vector<int32_t> group_rank_;
  std::vector<int32_t> logical_of_node_expert_;  // [node, expert of the node]
  std::vector<float> node_load_;                 // loads of one node's experts
  std::vector<uint64_t> scores_;
  std::vector<int32_t> copies_;
  MinHeap most_loaded_;
  std::vector<int32_t> expert_of_copy_;  // [slots of a node]
  std::vector<int32_t> index_of_copy_;
  std::vector<float> copy_load_;
  std::vector<int32_t> pack_index_;
  std::vector<int32_t> rank_in_pack_;
  Packer packer_;
};

}  // namespace

Result<EplbAnswer> eplb_deepseek(const EplbSizes& sizes,
                                 std::span<const float> load,
                                 bool hierarchical) {
  if (Status status = check_eplb_sizes(sizes, hierarchical); !status.ok()) return status.error();
  const size_t num_loads = static_cast<size_t>(sizes.num_layers) * sizes.num_logical_experts;
  if (load.size() != num_loads) {
    return invalid_argument("found " + std::to_string(load.size()) + " loads; expected " +
                            std::to_string(num_loads) + ", one per layer and expert");
  }
  for (const float value : load) {
    if (!(value >= 0 && std::isfinite(value))) {
      return invalid_argument("a load is negative or not a finite number; loads are token counts");
    }
  }
  EplbSizes used = sizes;
  if (!hierarchical) used.num_groups = used.num_nodes = 1;
  EplbAnswer answer = make_eplb_answer(sizes);
  DeepSeek deepseek(used);
  for (int l = 0; l < sizes.num_layers; ++l) {
    deepseek.run(
        load.subspan(static_cast<size_t>(l) * sizes.num_logical_experts, sizes.num_logical_experts),
        l, answer);
  }
  return answer;
}

Result<EplbAnswer> eplb_elasticity_aware(const EplbSizes& sizes,
                                         std::span<const float> load,
                                         std::span<const uint8_t> active_ranks,
                                         bool hierarchical) {
  if (Status status = check_eplb_sizes(sizes, hierarchical); !status.ok()) return status.error();
  if (active_ranks.size() != static_cast<size_t>(sizes.num_ranks)) {
    return invalid_argument("active_ranks has " + std::to_string(active_ranks.size()) +
                            " entries; expected one for each of " +
                            std::to_string(sizes.num_ranks) + " ranks");
  }
  const int num_active = static_cast<int>(
      std::count_if(active_ranks.begin(), active_ranks.end(), [](uint8_t a) { return a != 0; }));
  if (num_active == sizes.num_ranks) return eplb_deepseek(sizes, load, hierarchical);

  const int slots_per_rank = sizes.num_physical_experts / sizes.num_ranks;
  EplbSizes alive = sizes;
  alive.num_ranks = num_active;
  alive.num_physical_experts = num_active * slots_per_rank;
  alive.num_nodes = alive.num_groups = 1;
  if (alive.num_physical_experts < alive.num_logical_experts) {
    return invalid_argument(
        std::to_string(num_active) + " active ranks of " + std::to_string(slots_per_rank) +
        " slots hold " + std::to_string(alive.num_physical_experts) + " experts; the model has " +
        std::to_string(sizes.num_logical_experts) + ": more redundant experts or ranks are needed");
  }
  Result<EplbAnswer> over_alive = eplb_deepseek(alive, load, false);
  if (!over_alive.ok()) return over_alive;
  EplbAnswer answer = make_eplb_answer(sizes);
  answer.logical_count = over_alive->logical_count;
  std::fill(answer.replica_index.begin(), answer.replica_index.end(), -1);
  size_t from = 0;
  size_t to = 0;
  for (int l = 0; l < sizes.num_layers; ++l) {
    for (int r = 0; r < sizes.num_ranks; ++r, to += slots_per_rank) {
      if (!active_ranks[r]) continue;
      std::copy_n(&over_alive->physical_to_logical[from], slots_per_rank,
                  &answer.physical_to_logical[to]);
      std::copy_n(&over_alive->replica_index[from], slots_per_rank, &answer.replica_index[to]);
      from += slots_per_rank;
    }
  }
  return answer;
}

}  // namespace plimsoll
