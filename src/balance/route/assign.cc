// From the quotas of one source rank to its tokens: each choice takes the first copy of its expert
// with quota left, each shared expert first a rank that its token visits anyway. Every quota is
// used up exactly. See "From amounts to tokens" in docs/balancing.md.
#include <algorithm>
#include <limits>

#include "balance/route/quotas.h"
#include "balance/route/sampled_waterfill.h"

namespace plimsoll {
namespace {

Status check_input(const RouteTables& t,
                   int source,
                   std::span<const int32_t> topk_ids,
                   int k,
                   std::span<int32_t> physical_ids,
                   std::span<int32_t> shared_ranks) {
  if (source < 0 || source >= t.num_ranks) {
    return invalid_argument("assign was asked for source rank " + std::to_string(source) + " of " +
                            std::to_string(t.num_ranks));
  }
  if (k < 1 || topk_ids.size() % k != 0 || physical_ids.size() != topk_ids.size() ||
      shared_ranks.size() != topk_ids.size() / k * t.options.num_shared_experts) {
    return invalid_argument("assign was given " + std::to_string(topk_ids.size()) +
                            " ids, room for " + std::to_string(physical_ids.size()) +
                            " physical ids and for " + std::to_string(shared_ranks.size()) +
                            " shared ranks; with k = " + std::to_string(k) +
                            " these do not belong together");
  }
  return ok_status();
}

Error ids_differ_from_counts(int source, const std::string& what) {
  return invalid_argument("the ids of source rank " + std::to_string(source) +
                          " are not those that were counted for its quotas: " + what);
}

// The first of these quotas that is not used up; their number if all are.
int first_left(const RouteWorkspace& w, int num_quotas) {
  const auto end = w.quota.begin() + num_quotas;
  return static_cast<int>(std::find_if(w.quota.begin(), end, [](int32_t n) { return n != 0; }) -
                          w.quota.begin());
}

Status assign_routed(const RouteTables& t,
                     int source,
                     std::span<const int32_t> topk_ids,
                     RouteWorkspace& w,
                     std::span<int32_t> physical_ids) {
  std::copy_n(t.replicas.begin.begin(), t.num_experts, w.cursor.begin());
  for (size_t i = 0; i < topk_ids.size(); ++i) {
    const int32_t expert = topk_ids[i];
    if (expert == -1) {
      physical_ids[i] = -1;
      continue;
    }
    if (expert < -1 || expert >= t.num_experts) {
      return ids_differ_from_counts(source, "there is no expert " + std::to_string(expert));
    }
    int32_t& copy = w.cursor[expert];
    while (copy < t.replicas.begin[expert + 1] && w.quota[t.replicas.slot[copy]] == 0) ++copy;
    if (copy == t.replicas.begin[expert + 1]) {
      return ids_differ_from_counts(source,
                                    "expert " + std::to_string(expert) + " occurs more often");
    }
    physical_ids[i] = t.replicas.slot[copy];
    --w.quota[physical_ids[i]];
  }
  const int slot = first_left(w, t.num_slots);
  if (slot == t.num_slots) return ok_status();
  return ids_differ_from_counts(source, "slot " + std::to_string(slot) + " has " +
                                            std::to_string(w.quota[slot]) + " tokens left");
}

constexpr int32_t kUndecided = -2;

// The quotas of the ranks away from home, end to end, make a circle of `circle` places; quota_begin
// is where a rank's lie. A shared expert prefers, of the ranks its token visits anyway, the first
// from a given place on: preferences are spread as the quotas are, and each token's is its own
// affair, so that a GPU can find all of them at once. -1: the token visits no rank with a quota.
int preferred_rank(const RouteTables& t,
                   std::span<const int32_t> token,
                   std::span<const int32_t> quota,
                   std::span<const int32_t> quota_begin,
                   int source,
                   int32_t circle,
                   int32_t place) {
  const int slots_per_rank = t.num_slots / t.num_ranks;
  int best = -1;
  int32_t least_distance = std::numeric_limits<int32_t>::max();
  for (const int32_t slot : token) {
    const int rank = slot < 0 ? source : slot / slots_per_rank;
    if (rank == source || quota[rank] == 0) continue;
    int32_t distance = quota_begin[rank] - place;
    if (distance <= -quota[rank]) distance += circle;
    distance = std::max(distance, 0);
    if (distance < least_distance) least_distance = distance, best = rank;
  }
  return best;
}

// Tokens that visit a rank anyway take its shared expert for nothing, first come, first served.
void take_visited_ranks(const RouteTables& t,
                        int source,
                        std::span<const int32_t> quota,
                        std::span<const int32_t> physical_ids,
                        int k,
                        RouteWorkspace& w,
                        std::span<int32_t> shared_ranks) {
  int32_t circle = 0;
  for (int r = 0; r < t.num_ranks; ++r) {
    w.quota_begin[r] = circle;
    if (r != source) circle += quota[r];
  }
  if (circle == 0) return;
  const int m = t.options.num_shared_experts;
  for (size_t i = 0; i < shared_ranks.size(); ++i) {
    if (shared_ranks[i] != kUndecided) continue;
    const int rank = preferred_rank(t, physical_ids.subspan(i / m * k, k), quota, w.quota_begin,
                                    source, circle, static_cast<int32_t>(i % circle));
    if (rank < 0 || w.quota[rank] == 0) continue;
    shared_ranks[i] = rank;
    --w.quota[rank];
  }
}

Status assign_shared(const RouteTables& t,
                     int source,
                     std::span<const int32_t> quota,
                     std::span<const int32_t> physical_ids,
                     int k,
                     RouteWorkspace& w,
                     std::span<int32_t> shared_ranks) {
  const int m = t.options.num_shared_experts;
  for (size_t i = 0; i < shared_ranks.size(); ++i) {
    const auto token = physical_ids.subspan(i / m * k, k);
    const bool is_active =
        std::any_of(token.begin(), token.end(), [](int32_t id) { return id >= 0; });
    shared_ranks[i] = is_active ? kUndecided : -1;
  }
  take_visited_ranks(t, source, quota, physical_ids, k, w, shared_ranks);
  int rank = 0;
  for (int32_t& shared_rank : shared_ranks) {
    if (shared_rank != kUndecided) continue;
    while (rank < t.num_ranks && w.quota[rank] == 0) ++rank;
    if (rank == t.num_ranks) return ids_differ_from_counts(source, "more tokens are active");
    shared_rank = rank;
    --w.quota[rank];
  }
  if (first_left(w, t.num_ranks) == t.num_ranks) return ok_status();
  return ids_differ_from_counts(source, "fewer tokens are active");
}

}  // namespace

Status assign(const RouteTables& t,
              const RoutePlan& plan,
              int source,
              std::span<const int32_t> topk_ids,
              int k,
              RouteWorkspace& w,
              std::span<int32_t> physical_ids,
              std::span<int32_t> shared_ranks) {
  if (Status status = check_input(t, source, topk_ids, k, physical_ids, shared_ranks);
      !status.ok()) {
    return status;
  }
  const auto routed = plan.routed_by(source);
  std::copy(routed.begin(), routed.end(), w.quota.begin());
  if (Status status = assign_routed(t, source, topk_ids, w, physical_ids); !status.ok())
    return status;
  if (t.options.num_shared_experts == 0) return ok_status();
  if (draws_shared(t.options)) {
    sample_shared(t, plan, source, physical_ids, k, w, shared_ranks);
    return ok_status();
  }
  const auto shared = plan.shared_by(source);
  std::copy(shared.begin(), shared.end(), w.quota.begin());
  return assign_shared(t, source, shared, physical_ids, k, w, shared_ranks);
}

}  // namespace plimsoll
