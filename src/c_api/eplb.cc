#include "plimsoll/eplb.h"

#include <algorithm>

#include "c_api/guard.h"

using namespace plimsoll;
using namespace plimsoll::c_api;

namespace {

EplbSizes cpp_sizes(const plimsoll_eplb_sizes& c) {
  return {c.num_layers, c.num_experts, c.num_slots, c.num_ranks, c.num_nodes, c.num_groups};
}

// The three arrays that the caller has room for.
struct Answer {
  int32_t* physical_to_logical;
  int32_t* replica_index;
  int32_t* expert_count;
};

// plan: EplbSizes and the array's length to an answer.
template <typename Plan>
plimsoll_code answer_with(const plimsoll_eplb_sizes* sizes,
                          const void* load,
                          int32_t num_steps,
                          const Answer& out,
                          const Plan& plan) {
  return guarded([&]() -> Status {
    const Status there = check_there({{"sizes", sizes},
                                      {"the load", load},
                                      {"physical_to_logical", out.physical_to_logical},
                                      {"replica_index", out.replica_index},
                                      {"expert_count", out.expert_count}});
    if (!there.ok()) return there;
    const Result<size_t> size = num_elements({num_steps, sizes->num_layers, sizes->num_experts});
    if (!size.ok()) return size.error();
    const Result<EplbAnswer> answer = plan(cpp_sizes(*sizes), *size);
    if (!answer.ok()) return answer.error();
    std::ranges::copy(answer->physical_to_logical, out.physical_to_logical);
    std::ranges::copy(answer->replica_index, out.replica_index);
    std::ranges::copy(answer->logical_count, out.expert_count);
    return ok_status();
  });
}

}  // namespace

plimsoll_code plimsoll_eplb_deepseek(const plimsoll_eplb_sizes* sizes,
                                     const float* weight,
                                     int32_t hierarchical,
                                     int32_t* physical_to_logical,
                                     int32_t* replica_index,
                                     int32_t* expert_count) {
  return answer_with(sizes, weight, 1, {physical_to_logical, replica_index, expert_count},
                     [&](const EplbSizes& cpp, size_t size) {
                       return eplb_deepseek(cpp, {weight, size}, hierarchical != 0);
                     });
}

plimsoll_code plimsoll_eplb_deepseek_vec(const plimsoll_eplb_sizes* sizes,
                                         const int64_t* steps,
                                         int32_t num_steps,
                                         int32_t hierarchical,
                                         int32_t* physical_to_logical,
                                         int32_t* replica_index,
                                         int32_t* expert_count) {
  return answer_with(sizes, steps, num_steps, {physical_to_logical, replica_index, expert_count},
                     [&](const EplbSizes& cpp, size_t size) {
                       return eplb_deepseek_vec(cpp, {steps, size}, hierarchical != 0);
                     });
}
