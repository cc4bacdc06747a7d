#include <algorithm>

#include "c_api/guard.h"
#include "c_api/handles.h"
#include "plimsoll/expert_location.h"
#include "plimsoll/recording.h"

using namespace plimsoll;
using namespace plimsoll::c_api;

plimsoll_code plimsoll_load_create(int32_t num_steps,
                                   int32_t num_layers,
                                   int32_t num_experts,
                                   const int64_t* counts,
                                   plimsoll_load** load) {
  return guarded([&]() -> Status {
    if (Status there = check_there({{"counts", counts}, {"load", load}}); !there.ok()) return there;
    const Result<size_t> size = num_elements({num_steps, num_layers, num_experts});
    if (!size.ok()) return size.error();
    if (std::any_of(counts, counts + *size, [](int64_t count) { return count < 0; })) {
      return invalid_argument("a count is negative; counts are tokens");
    }
    *load = new plimsoll_load{{num_steps, num_layers, num_experts, {counts, counts + *size}}};
    return ok_status();
  });
}

plimsoll_code plimsoll_load_read(const char* const* paths, size_t num_paths, plimsoll_load** load) {
  return guarded([&]() -> Status {
    if (Status there = check_there({{"paths", paths}, {"load", load}}); !there.ok()) return there;
    if (num_paths == 0) return invalid_argument("no path was given");
    if (std::find(paths, paths + num_paths, nullptr) != paths + num_paths) {
      return invalid_argument("a path is NULL");
    }
    Result<LoadedCounts> counts =
        load_expert_counts(std::vector<std::string>(paths, paths + num_paths));
    if (!counts.ok()) return counts.error();
    *load = new plimsoll_load{std::move(counts->history)};
    return ok_status();
  });
}

plimsoll_code plimsoll_load_write(const plimsoll_load* load, const char* path) {
  return guarded([&]() -> Status {
    if (Status there = check_there({{"load", load}, {"path", path}}); !there.ok()) return there;
    const Result<Recording> recording = make_recording(load->history);
    return recording.ok() ? write_recording(*recording, path) : recording.error();
  });
}

int32_t plimsoll_load_num_steps(const plimsoll_load* load) {
  return load->history.num_steps;
}
int32_t plimsoll_load_num_layers(const plimsoll_load* load) {
  return load->history.num_layers;
}
int32_t plimsoll_load_num_experts(const plimsoll_load* load) {
  return load->history.num_logical_experts;
}
const int64_t* plimsoll_load_counts(const plimsoll_load* load) {
  return load->history.counts.data();
}
void plimsoll_load_free(plimsoll_load* load) {
  delete load;
}
