// Dealing the quotas of a source out to its tokens: assign() of src/balance, by one cluster. A
// choice is served by the copy whose quota its occurrence number falls into; a shared expert goes
// to a rank its token visits anyway if it comes early enough among those that prefer this rank,
// else into what the quotas have left, in order.
#pragma once

#include "cuda/balance/count.cuh"

namespace plimsoll::gpu {

// A shared expert, served by a rank or -1.
template <typename Id>
__device__ inline void write_shared(const Block& b,
                                    const WarpTokens<Id>& tokens,
                                    size_t cell,
                                    int rank) {
  tokens.out[cell] = rank < 0 ? -1 : b.shape.num_slots + rank;
  if (tokens.out_weights != nullptr) {
    tokens.out_weights[cell] = rank < 0 ? 0.0f : tokens.shared_weight;
  }
}

// The slot that serves occurrence `number` of an item.
__device__ inline int slot_of(const Tables& t, const Scratch& s, int item, int number) {
  int a = t.item_begin[item];
  const int last = t.item_begin[item + 1] - 1;
#pragma unroll 1
  while (a < last && s.quota_end[a] <= number) ++a;
  return t.arc_slot[a];
}

// Writes the slots of the choices, and puts them (plus one; 0: none) in the place of the choices.
// kAllHome: the shared experts stay at home, and are written too.
template <bool kAllHome, typename Id>
__device__ void assign_routed(const Block& b,
                              const Tables& t,
                              const WarpTokens<Id>& tokens,
                              const Scratch& s) {
  const auto warp_first = s.warp_count.from(b.warp * b.shape.max_items());
  const auto choices = s.choices.from(-tokens.block_begin * tokens.k);
  const int end = tokens.end * tokens.k;
  int place = b.lane % tokens.k;
  const int step = 32 % tokens.k;
  Earlier earlier;
#pragma unroll 2
  for (int first = tokens.begin * tokens.k; first < end; first += 32) {
    const int i = first + b.lane;
    const uint32_t choice = i < end ? choices[i] : 0;
    const int expert = expert_of(choice);
    int slot = -1;
    if (expert >= 0) {
      const int item = t.expert_item[expert];
      slot = item == kNone
                 ? t.expert_slot[expert]
                 : slot_of(t, s, item, s.item_first[item] + warp_first[item] + number_of(choice));
    }
    const size_t cell = tokens.cell(i);
    if (i < end) tokens.out[cell] = slot;
    if (!kAllHome) {
      if (i < end) choices[i] = static_cast<uint32_t>(slot + 1);
      continue;
    }
    const unsigned now = __ballot_sync(kFullWarp, expert >= 0);
    const bool is_active = expert >= 0 || earlier.any(now, place, b.lane);
    if (i < end && place == tokens.k - 1) {
      for (int j = 1; j <= tokens.m; ++j)
        write_shared(b, tokens, cell + j, is_active ? b.source : -1);
    }
    earlier.previous = now;
    place += step;
    if (place >= tokens.k) place -= tokens.k;
  }
  __syncwarp();
}

// The weights of the choices; those of shared experts are written with their ranks.
template <typename Id>
__device__ void copy_weights(const Block& b, const WarpTokens<Id>& tokens) {
  if (tokens.out_weights == nullptr) return;
  const int end = tokens.end * tokens.k;
#pragma unroll 4
  for (int i = tokens.begin * tokens.k + b.lane; i < end; i += 32) {
    tokens.out_weights[tokens.cell(i)] = tokens.weights[i];
  }
}

inline constexpr int kInactive = -1;
inline constexpr int kNoOffer = -2;

// The rank a shared expert prefers: of those its token visits, the first from `place` on along the
// circle of the quotas away from home. kNoOffer: it visits none with a quota. kInactive: no token.
__device__ inline int preferred_rank(
    const Block& b, SharedArray<uint32_t> slots, int k, int place, const Scratch& s) {
  const unsigned per_rank = b.shape.slots_per_rank();
  const int circle = s.away_begin[b.shape.num_ranks];
  int best = kInactive;
  int least_distance = INT_MAX;
#pragma unroll 2
  for (int j = 0; j < k; ++j) {
    const uint32_t slot = slots[j];
    if (slot == 0) continue;
    if (best == kInactive) best = kNoOffer;
    const int rank = static_cast<int>((slot - 1) / per_rank);
    const int begin = s.away_begin[rank];
    const int quota = s.away_begin[rank + 1] - begin;
    if (quota == 0) continue;
    int distance = begin - place;
    if (distance <= -quota) distance += circle;
    distance = max(distance, 0);
    if (distance < least_distance) least_distance = distance, best = rank;
  }
  return best;
}

// A preference and its number among those of the warp for the same rank.
__device__ inline int pack_offer(int rank, int number) {
  return rank < 0 ? rank : number << 8 | rank;
}

template <typename Id>
__device__ void make_offers(const Block& b, const WarpTokens<Id>& tokens, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int circle = s.away_begin[num_ranks];
  const auto counter = s.warp_offers.from(b.warp * num_ranks);
#pragma unroll 1
  for (int r = b.lane; r < num_ranks; r += 32) counter[r] = 0;
  __syncwarp();
  const int num_bits = 33 - __clz(num_ranks);  // kNoOffer and kInactive differ from all ranks
  const int end = tokens.end * tokens.m;
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
#pragma unroll 1
  for (int first = tokens.begin * tokens.m; first < end; first += 32) {
    const int unit = first + b.lane;
    int rank = kInactive;
    if (unit < end) {
      const auto slots = s.choices.from((unit / tokens.m - tokens.block_begin) * tokens.k);
      rank = preferred_rank(b, slots, tokens.k, unit % circle, s);
    }
    const int number = number_among_equals(rank, num_bits, counter, b.lane);
    if (unit < end) offers[unit] = pack_offer(rank, number);
  }
  __syncthreads();
}

// Turns warp_offers into the number of each warp's first offer in the block, and tells all blocks
// how many each rank gets from this one.
__device__ inline void send_offers(const Block& b, const Scratch& s) {
  const int size = b.shape.offer_row_size();
  if (b.thread < size) {
    const bool is_rank = b.thread < b.shape.num_ranks;
    s.left_end[b.thread] =
        is_rank ? start_from(s.warp_offers.from(b.thread), b.shape.num_ranks) : 0;
  }
  __syncthreads();
  const auto row = s.sent_offers.from(b.index * size);
  if (4 * b.lane >= size) return;
  uint32_t offers[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) offers[j] = s.left_end[4 * b.lane + j];
  send(s, kOffers, b.warp, row, 4 * b.lane, {offers[0], offers[1], offers[2], offers[3]});
}

// Makes the numbers of offers the cluster's, and sums up what they leave of the quotas. Returns the
// undecided shared experts of lower blocks' and warps' tokens.
__device__ inline int meet_offers(const Block& b, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int size = b.shape.offer_row_size();
  const int m = b.shape.num_shared_experts;
  const int r = b.thread;
  __syncthreads();  // left_end has been sent
  if (r < num_ranks) {
    int before = 0;
    int total = 0;
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
      const int offers = s.sent_offers[c * size + r];
      if (c < b.index) before += offers;
      total += offers;
    }
#pragma unroll
    for (int w = 0; w < kWarps; ++w) s.warp_offers[w * num_ranks + r] += before;
    const int away = s.away_begin[r + 1] - s.away_begin[r];
    const int quota = r == b.source ? m * s.tokens[r] - s.away_begin[num_ranks] : away;
    s.left_end[r] = quota - min(away, total);
  }
  __syncthreads();
  int undecided = 0;  // lane by lane, then in sum: active ones less those whose offer was met
  if (b.lane < b.index) {
    undecided += m * s.block_active[b.lane];
  }
  if (b.lane < b.warp) undecided += m * s.warp_active[b.lane];
#pragma unroll 1
  for (int i = b.lane; i < num_ranks; i += 32) {
    undecided -= min(s.warp_offers[b.warp * num_ranks + i], s.away_begin[i + 1] - s.away_begin[i]);
  }
  if (b.warp == 0) {
    int sum = 0;
#pragma unroll 1
    for (int first = 0; first < num_ranks; first += 32) {
      const int i = first + b.lane;
      const int end = sum + scan_lanes(i < num_ranks ? s.left_end[i] : 0, b.lane);
      if (i < num_ranks) s.left_end[i] = end;
      sum = __shfl_sync(kFullWarp, end, 31);
    }
  }
  __syncthreads();
  return sum_of_warp(undecided);
}

// The first rank whose left-over quota ends after `number`.
__device__ inline int rank_of_left_over(const Block& b, const Scratch& s, int number) {
  int low = 0;
  int high = b.shape.num_ranks - 1;
#pragma unroll 1
  while (low < high) {
    const int middle = (low + high) / 2;
    if (s.left_end[middle] > number) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

template <typename Id>
__device__ void place_shared(const Block& b,
                             const WarpTokens<Id>& tokens,
                             const Scratch& s,
                             int undecided_before) {
  const auto first_number = s.warp_offers.from(b.warp * b.shape.num_ranks);
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
  const int end = tokens.end * tokens.m;
#pragma unroll 1
  for (int first = tokens.begin * tokens.m; first < end; first += 32) {
    const int unit = first + b.lane;
    const int offer = unit < end ? offers[unit] : kInactive;
    int rank = offer < 0 ? kNoOffer : offer & 0xFF;
    if (rank >= 0) {
      const int quota = s.away_begin[rank + 1] - s.away_begin[rank];
      if (first_number[rank] + (offer >> 8) >= quota) rank = kNoOffer;
    }
    const bool is_undecided = offer != kInactive && rank < 0;
    const unsigned undecided = __ballot_sync(kFullWarp, is_undecided);
    if (is_undecided) {
      const int number = undecided_before + __popc(undecided & ((1u << b.lane) - 1));
      rank = rank_of_left_over(b, s, number);
    }
    undecided_before += __popc(undecided);
    if (unit < end) {
      const int token = unit / tokens.m;
      const size_t cell = static_cast<size_t>(token + 1) * tokens.k + unit;
      write_shared(b, tokens, cell, offer == kInactive ? -1 : rank);
    }
  }
}

// The tokens of this block, once the quotas are there.
template <typename Id>
__device__ void assign_tokens(const Block& b,
                              const Tables& t,
                              const WarpTokens<Id>& tokens,
                              const Scratch& s) {
  if (!b.shape.shared_is_item || s.away_begin[b.shape.num_ranks] == 0) {
    assign_routed<true>(b, t, tokens, s);
    return;
  }
  assign_routed<false>(b, t, tokens, s);
  make_offers(b, tokens, s);
  send_offers(b, s);
  wait_for(s, kOffers);
  place_shared(b, tokens, s, meet_offers(b, s));
}

}  // namespace plimsoll::gpu
