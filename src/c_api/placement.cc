#include <numeric>

#include "c_api/guard.h"
#include "c_api/handles.h"
#include "plimsoll/expert_location.h"

using namespace plimsoll;
using namespace plimsoll::c_api;

plimsoll_code plimsoll_placement_create(int32_t num_layers,
                                        int32_t num_experts,
                                        int32_t num_slots,
                                        int32_t num_ranks,
                                        const int32_t* physical_to_logical,
                                        plimsoll_placement** placement) {
  return guarded([&]() -> Status {
    const Status there =
        check_there({{"physical_to_logical", physical_to_logical}, {"placement", placement}});
    if (!there.ok()) return there;
    const Result<size_t> size = num_elements({num_layers, num_slots});
    if (!size.ok()) return size.error();
    Placement made{num_layers,
                   num_experts,
                   num_slots,
                   num_ranks,
                   {physical_to_logical, physical_to_logical + *size}};
    if (Status valid = validate(made); !valid.ok()) return valid;
    *placement = new plimsoll_placement{std::move(made)};
    return ok_status();
  });
}

plimsoll_code plimsoll_placement_read(const char* path,
                                      int32_t num_layers,
                                      int32_t num_experts,
                                      int32_t num_ranks,
                                      plimsoll_placement** placement) {
  return guarded([&]() -> Status {
    const Status there = check_there({{"path", path}, {"placement", placement}});
    if (!there.ok()) return there;
    const Result<ExpertMap> map = load_expert_map(path);
    if (!map.ok()) return map.error();
    Result<Placement> made = make_placement(*map, num_layers, num_experts, num_ranks);
    if (!made.ok()) return made.error();
    *placement = new plimsoll_placement{std::move(*made)};
    return ok_status();
  });
}

plimsoll_code plimsoll_placement_write(const plimsoll_placement* placement,
                                       const char* path,
                                       int32_t first_layer) {
  return guarded([&]() -> Status {
    const Status there = check_there({{"placement", placement}, {"path", path}});
    if (!there.ok()) return there;
    std::vector<int32_t> layer_ids(placement->placement.num_layers);
    std::iota(layer_ids.begin(), layer_ids.end(), first_layer);
    return save_placement(placement->placement, path, {.layer_ids = std::move(layer_ids)});
  });
}

int32_t plimsoll_placement_num_layers(const plimsoll_placement* placement) {
  return placement->placement.num_layers;
}
int32_t plimsoll_placement_num_experts(const plimsoll_placement* placement) {
  return placement->placement.num_logical_experts;
}
int32_t plimsoll_placement_num_slots(const plimsoll_placement* placement) {
  return placement->placement.num_physical_experts;
}
int32_t plimsoll_placement_num_ranks(const plimsoll_placement* placement) {
  return placement->placement.num_ranks;
}
const int32_t* plimsoll_placement_map(const plimsoll_placement* placement) {
  return placement->placement.physical_to_logical.data();
}
void plimsoll_placement_free(plimsoll_placement* placement) {
  delete placement;
}
