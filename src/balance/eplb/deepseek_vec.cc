#include <algorithm>
#include <numeric>
#include <string>

#include "balance/eplb/eplb_check.h"
#include "balance/eplb/packing.h"
#include "balance/measure/each_layer.h"
#include "plimsoll/eplb.h"

namespace plimsoll {
namespace {

// The fullest copy of one step, and how full the fullest would be if its expert had one copy more.
struct StepPeak {
  int32_t expert = 0;
  int32_t runner_up = 0;
  float load = 0;
  float load_if_copied = 0;
};

// Adds in runs of 16, whose sums are added in runs of 16 again, and so on four levels up.
class CascadeSum {
 public:
  void add(float value) {
    sum_[0] += value;
    ++count_;
    for (int level = 1, shift = 4; level < 4; ++level, shift += 4) {
      if (count_ & ((int64_t{1} << shift) - 1)) break;
      sum_[level] += sum_[level - 1];
      sum_[level - 1] = 0;
    }
  }
  float total() const { return ((sum_[0] + sum_[1]) + sum_[2]) + sum_[3]; }

 private:
  float sum_[4] = {};
  int64_t count_ = 0;
};

// torch sums an outer dimension in columns, blocks of 32 of them by a cascade each. Columns that
// fill no block have four cascades each, to which the steps go in turn; steps that are left over go
// to the first one's total.
constexpr int64_t kBlockColumns = 32;

template <typename Value>
float sum_in_block(int num_steps, Value value) {
  CascadeSum sum;
  for (int s = 0; s < num_steps; ++s) sum.add(value(s));
  return sum.total();
}

template <typename Value>
float sum_outside_blocks(int num_steps, Value value) {
  CascadeSum lanes[4];
  const int num_dealt = num_steps / 4 * 4;
  for (int s = 0; s < num_dealt; ++s) lanes[s % 4].add(value(s));
  float total = lanes[0].total();
  for (int s = num_dealt; s < num_steps; ++s) total += value(s);
  for (int lane = 1; lane < 4; ++lane) total += lanes[lane].total();
  return total;
}

// Chooses and places the copies of one layer over one node.
class NodePlan {
 public:
  // num_columns: experts of all layers and nodes.
  NodePlan(int num_steps, int64_t num_columns, int num_experts, int num_slots, int slots_per_rank)
      : num_steps_(num_steps),
        num_block_columns_(num_columns / kBlockColumns * kBlockColumns),
        num_experts_(num_experts),
        slots_per_rank_(slots_per_rank),
        load_(static_cast<size_t>(num_steps) * num_experts),
        score_(load_.size()),
        block_peak_(static_cast<size_t>(num_steps) * num_blocks()),
        total_(num_experts),
        copies_(num_experts),
        expert_of_copy_(num_slots),
        index_of_copy_(num_slots),
        copy_load_(num_slots),
        peaks_(num_steps),
        sums_(num_experts) {}

  // load(step, i) is what expert i of the node was asked for, first_position + i its place among
  // the experts of all nodes, first_column + i that among those of all layers too;
  // put(slot, i, replica index) tells the answer.
  template <typename Load, typename Put>
  void run(int first_position, int64_t first_column, Load load, Put put) {
    first_position_ = first_position;
    first_column_ = first_column;
    std::fill(total_.begin(), total_.end(), 0);
    for (int s = 0; s < num_steps_; ++s) {
      for (int i = 0; i < num_experts_; ++i) {
        load_[static_cast<size_t>(s) * num_experts_ + i] = static_cast<float>(load(s, i));
        total_[i] += load(s, i);
      }
    }
    replicate();
    for (size_t i = 0; i < expert_of_copy_.size(); ++i) {
      copy_load_[i] = static_cast<float>(total_[expert_of_copy_[i]]) /
                      static_cast<float>(copies_[expert_of_copy_[i]]);
    }
    order_.resize(copy_load_.size());
    if (slots_per_rank_ > 1) {
      sort_descending(copy_load_, order_);
    } else {
      std::iota(order_.begin(), order_.end(), uint64_t{0});
    }
    const int num_ranks = static_cast<int>(expert_of_copy_.size()) / slots_per_rank_;
    for (int r = 0; r < num_ranks; ++r) {
      for (int j = 0; j < slots_per_rank_; ++j) {
        const uint32_t copy = key_index(order_[j * num_ranks + (j % 2 ? num_ranks - 1 - r : r)]);
        put(r * slots_per_rank_ + j, expert_of_copy_[copy], index_of_copy_[copy]);
      }
    }
  }

  std::span<const int32_t> copies() const { return copies_; }

 private:
  void replicate() {
    std::fill(copies_.begin(), copies_.end(), 1);
    if (expert_of_copy_.size() > copies_.size()) score_all();
    for (size_t i = 0; i < expert_of_copy_.size(); ++i) {
      int32_t expert = static_cast<int32_t>(i);
      index_of_copy_[i] = 0;
      if (expert >= num_experts_) {
        expert = most_relieving();
        index_of_copy_[i] = copies_[expert]++;
        for (int s = 0; s < num_steps_; ++s) {
          score_expert(s, expert);
          find_block_peak(s, expert / kBlock);
          if (peaks_[s].expert == expert || peaks_[s].runner_up == expert) find_peak(s);
        }
      }
      expert_of_copy_[i] = expert;
    }
  }

  // The experts of a step in blocks, and each block's fullest copy: the first of equals.
  static constexpr int kBlock = 16;

  int num_blocks() const { return (num_experts_ + kBlock - 1) / kBlock; }

  void score_expert(int step, int i) {
    const size_t at = static_cast<size_t>(step) * num_experts_ + i;
    // The reference keeps loads apart by adding a little with the expert's position.
    const float jitter = static_cast<float>(first_position_ + i) * 1e-4f;
    score_[at] = (load_[at] + jitter) / static_cast<float>(copies_[i]);
  }

  void find_block_peak(int step, int block) {
    const float* score = &score_[static_cast<size_t>(step) * num_experts_];
    int best = block * kBlock;
    const int end = std::min(best + kBlock, num_experts_);
    for (int i = best + 1; i < end; ++i) {
      if (score[i] > score[best]) best = i;
    }
    block_peak_[static_cast<size_t>(step) * num_blocks() + block] = best;
  }

  void score_all() {
    for (int s = 0; s < num_steps_; ++s) {
      for (int i = 0; i < num_experts_; ++i) score_expert(s, i);
      for (int block = 0; block < num_blocks(); ++block) find_block_peak(s, block);
      find_peak(s);
    }
  }

  void find_peak(int step) {
    const float* score = &score_[static_cast<size_t>(step) * num_experts_];
    const int32_t* peaks = &block_peak_[static_cast<size_t>(step) * num_blocks()];
    int best = peaks[0];
    for (int block = 1; block < num_blocks(); ++block) {
      if (score[peaks[block]] > score[best]) best = peaks[block];
    }
    float second = -1;
    int runner_up = 0;
    const auto follow = [&](int i) {
      if (i != best && score[i] > second) second = score[i], runner_up = i;
    };
    for (int block = 0; block < num_blocks(); ++block) follow(peaks[block]);
    const int begin = best / kBlock * kBlock;
    const int end = std::min(begin + kBlock, num_experts_);
    for (int i = begin; i < end; ++i) follow(i);
    const float if_copied = load_[static_cast<size_t>(step) * num_experts_ + best] /
                            static_cast<float>(copies_[best] + 1);
    peaks_[step] = {best, runner_up, score[best], std::max(second, if_copied)};
  }

  // The expert whose next copy leaves the smallest sum of peaks; the lowest of equals.
  int32_t most_relieving() {
    const auto load = [&](int step) { return peaks_[step].load; };
    const int num_in_blocks =
        static_cast<int>(std::clamp<int64_t>(num_block_columns_ - first_column_, 0, num_experts_));
    std::fill_n(sums_.begin(), num_in_blocks, sum_in_block(num_steps_, load));
    std::fill(sums_.begin() + num_in_blocks, sums_.end(), sum_outside_blocks(num_steps_, load));
    is_summed_.assign(num_experts_, 0);
    for (const StepPeak& at : peaks_) {
      if (is_summed_[at.expert]) continue;
      is_summed_[at.expert] = 1;
      const auto relieved = [&](int step) {
        const StepPeak& peak = peaks_[step];
        return peak.expert == at.expert ? peak.load_if_copied : peak.load;
      };
      sums_[at.expert] = at.expert < num_in_blocks ? sum_in_block(num_steps_, relieved)
                                                   : sum_outside_blocks(num_steps_, relieved);
    }
    return static_cast<int32_t>(std::min_element(sums_.begin(), sums_.end()) - sums_.begin());
  }

  const int num_steps_;
  const int64_t num_block_columns_;
  const int num_experts_;
  const int slots_per_rank_;
  int first_position_ = 0;
  int64_t first_column_ = 0;
  std::vector<float> load_;          // [step, expert]
  std::vector<float> score_;         // [step, expert], the load of each copy
  std::vector<int32_t> block_peak_;  // [step, block]
  std::vector<int64_t> total_;
  std::vector<int32_t> copies_;
  std::vector<int32_t> expert_of_copy_;
  std::vector<int32_t> index_of_copy_;
  std::vector<float> copy_load_;
  std::vector<StepPeak> peaks_;
  std::vector<float> sums_;
  std::vector<uint8_t> is_summed_;
  std::vector<uint64_t> order_;
};

// The experts of every node, [logical], groups dealt out by their load over all steps.
std::vector<int32_t> experts_by_node(const EplbSizes& s,
                                     std::span<const int64_t> steps,
                                     int num_steps,
                                     int layer) {
  std::vector<int32_t> experts(s.num_logical_experts);
  std::vector<double> sums(s.num_groups);
  const int group_size = s.num_logical_experts / s.num_groups;
  for (int step = 0; step < num_steps; ++step) {
    const size_t row = (static_cast<size_t>(step) * s.num_layers + layer) * s.num_logical_experts;
    for (int e = 0; e < s.num_logical_experts; ++e) {
      sums[e / group_size] += static_cast<double>(steps[row + e]);
    }
  }
  const std::vector<float> loads(sums.begin(), sums.end());
  std::vector<int32_t> node(s.num_groups);
  std::vector<int32_t> place(s.num_groups);
  Packer().pack(loads, s.num_nodes, node, place);
  for (int e = 0; e < s.num_logical_experts; ++e) {
    const int group = e / group_size;
    const int position = node[group] * (s.num_groups / s.num_nodes) + place[group];
    experts[position * group_size + e % group_size] = e;
  }
  return experts;
}

Status check_steps(const EplbSizes& s, std::span<const int64_t> steps, bool hierarchical) {
  if (Status status = check_eplb_sizes(s, hierarchical); !status.ok()) return status;
  const size_t per_step = static_cast<size_t>(s.num_layers) * s.num_logical_experts;
  if (steps.empty() || steps.size() % per_step != 0) {
    return invalid_argument("found " + std::to_string(steps.size()) +
                            " loads; expected a multiple of " + std::to_string(per_step) +
                            ", one per step, layer and expert");
  }
  if (std::any_of(steps.begin(), steps.end(), [](int64_t n) { return n < 0; })) {
    return invalid_argument("a load is negative; loads are token counts");
  }
  const int num_redundant = s.num_physical_experts - s.num_logical_experts;
  if (hierarchical &&
      (s.num_logical_experts % s.num_nodes != 0 || num_redundant % s.num_nodes != 0)) {
    return invalid_argument("deepseek_vec_hierarchical needs the nodes (" +
                            std::to_string(s.num_nodes) + ") to divide the experts (" +
                            std::to_string(s.num_logical_experts) +
                            ") and the redundant experts (" + std::to_string(num_redundant) + ")");
  }
  return ok_status();
}

}  // namespace

Result<EplbAnswer> eplb_deepseek_vec(const EplbSizes& sizes,
                                     std::span<const int64_t> steps,
                                     bool hierarchical) {
  if (Status status = check_steps(sizes, steps, hierarchical); !status.ok()) return status.error();
  EplbSizes s = sizes;
  if (!hierarchical) s.num_groups = s.num_nodes = 1;
  const size_t per_step = static_cast<size_t>(s.num_layers) * s.num_logical_experts;
  const int num_steps = static_cast<int>(steps.size() / per_step);
  const int experts_per_node = s.num_logical_experts / s.num_nodes;
  const int slots_per_node = s.num_physical_experts / s.num_nodes;
  EplbAnswer answer = make_eplb_answer(s);
  for_each_layer(s.num_layers, 0, [&](int l) {
    NodePlan plan(num_steps, static_cast<int64_t>(per_step), experts_per_node, slots_per_node,
                  s.num_physical_experts / s.num_ranks);
    const std::vector<int32_t> experts = experts_by_node(s, steps, num_steps, l);
    for (int node = 0; node < s.num_nodes; ++node) {
      const int32_t* logical = &experts[static_cast<size_t>(node) * experts_per_node];
      const size_t base = static_cast<size_t>(l) * s.num_logical_experts;
      const size_t slots = static_cast<size_t>(l) * s.num_physical_experts + node * slots_per_node;
      plan.run(
          node * experts_per_node, static_cast<int64_t>(base) + node * experts_per_node,
          [&](int step, int i) { return steps[step * per_step + base + logical[i]]; },
          [&](int slot, int expert, int replica) {
            answer.physical_to_logical[slots + slot] = logical[expert];
            answer.replica_index[slots + slot] = replica;
          });
      for (int i = 0; i < experts_per_node; ++i) {
        answer.logical_count[base + logical[i]] = plan.copies()[i];
      }
    }
  });
  return answer;
}

}  // namespace plimsoll
