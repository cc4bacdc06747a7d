// Dealing the quotas of a source out to its tokens: assign() of src/balance, by one cluster. A
// choice is served by the copy whose quota its occurrence number falls into; a shared expert goes
// to a rank its token visits anyway if it comes early enough among those that prefer this rank,
// else into what the quotas have left, in order. See "From amounts to tokens" in docs/balancing.md.
#pragma once

#include "cuda/balance/route/count.cuh"

namespace plimsoll::gpu {

// A shared expert, served by a rank or -1.
template <typename Id>
__device__ inline void write_shared(
    const Block& b, const WarpTokens<Id>& tokens, int token, int unit, int rank) {
  const int cell = (token + 1) * tokens.k + unit;
  tokens.out[cell] = rank < 0 ? -1 : b.shape.num_slots + rank;
  if (tokens.out_weights != nullptr) {
    tokens.out_weights[cell] = rank < 0 ? 0.0f : tokens.shared_weight;
  }
}

// While a shared expert's preference is looked for, s.offers holds the best so far, the least
// number: its distance, the place of the choice among the token's, the rank. Then its rank and its
// number among those of the warp for the same rank.
inline constexpr int kRankBits = 7;
inline constexpr int kPlaceBits = 5;

// The circle on which the quotas away from home lie.
struct Circle {
  int size;
  float inverse;

  __device__ Circle(const Block& b, const Scratch& s)
      : size(b.shape.shared_is_item ? s.away_begin[b.shape.num_ranks] : 0) {
    inverse = __fdividef(1.0f, static_cast<float>(max(size, 1)));
  }

  // A unit's place: the remainder. Numbers here lie below 2^20, so it is off by one round at most.
  __device__ int place(int unit) const {
    const int rest = unit - static_cast<int>(static_cast<float>(unit) * inverse) * size;
    return rest < 0 ? rest + size : rest >= size ? rest - size : rest;
  }
};

// How much a unit prefers a rank: the less, the sooner its quota comes from the unit's place on.
__device__ inline uint32_t preference(
    const Circle& circle, const Scratch& s, int unit, int place, int rank) {
  const int begin = s.away_begin[rank];
  const int quota = s.away_begin[rank + 1] - begin;
  int distance = begin - circle.place(unit);
  if (distance <= -quota) distance += circle.size;
  distance = max(distance, 0);
  const uint32_t value = static_cast<uint32_t>(distance) << (kRankBits + kPlaceBits) |
                         static_cast<uint32_t>(place << kRankBits | rank);
  return quota == 0 ? kNoOffer : value;
}

// The arc that serves occurrence `number` of an item, found by halving.
__device__ inline int serving_arc(const Tables& t, const Scratch& s, int item, int number) {
  const int begin = t.item_begin[item];
  const int last = t.item_begin[item + 1] - 1;
  int arc = begin;
#pragma unroll 1
  for (int step = 1 << (31 - __clz((last - begin) | 1)); step > 0; step /= 2) {
    const int next = arc + step;
    if (next <= last && s.quota_end[next - 1] <= number) arc = next;
  }
  return arc;
}

// The arc of every item at which this warp's occurrences begin; they end few arcs further on. It is
// the item's first unless arcs end before.
template <int kWords, int kArcs>
__device__ inline void find_first_arcs(const Block& b, const Tables& t, const Scratch& s) {
  const auto warp_first = s.warp_count.from(b.warp * b.shape.max_items());
  const auto warp_arc = s.warp_arc.from(b.warp * b.shape.max_items());
  unsigned ends_before[kArcs];
#pragma unroll
  for (int j = 0; j < kArcs; ++j) {
    const int arc = first_routed_arc(b) + kWarpSize * j + b.lane;
    bool ends = false;
    if (arc < t.num_arcs) {
      const int item = t.arc_item[arc];
      ends = s.quota_end[arc] <= s.column[t.item_expert[item]].first + warp_first[item];
    }
    ends_before[j] = __ballot_sync(kFullWarp, ends);
  }
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int item = first_routed_item(b) + kWarpSize * w + b.lane;
    if (item >= t.num_items) continue;
    int arc = t.item_begin[item];
#pragma unroll
    for (int j = 0; j < kArcs; ++j) {
      arc += __popc(ends_before[j] & t.item_arc_sets[item * kArcs + j]);
    }
    warp_arc[item] = static_cast<uint16_t>(arc);
  }
}

// Writes the slots of the choices, and leaves the best preference of every shared expert in
// s.offers.
template <Size kSize, typename Id>
__device__ void assign_routed(const Block& b,
                              const Tables& t,
                              const WarpTokens<Id>& tokens,
                              Divisor per_rank,
                              const Circle& circle,
                              const Scratch& s) {
  const auto choices = s.choices.from(-tokens.block_begin * tokens.k);
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
  constexpr bool kHasFewArcs = arc_words(kSize) > 0;
  if constexpr (kHasFewArcs) find_first_arcs<rank_words(kSize), arc_words(kSize)>(b, t, s);
  __syncwarp();
  const auto warp_first = s.warp_count.from(b.warp * b.shape.max_items());
  const auto warp_arc = s.warp_arc.from(b.warp * b.shape.max_items());
  const int end = tokens.end * tokens.k;
#pragma unroll 2
  for (int i = tokens.begin * tokens.k + b.lane; i < end; i += 32) {
    const uint32_t choice = choices[i];
    const int expert = expert_of(choice);
    const int token = tokens.token_of(i);
    int slot = -1;
    if (expert >= 0) {
      slot = t.expert_slot[expert];
      const int item = kSize == Size::kPlain ? kNone : t.expert_item[expert];
      if (item != kNone) {
        const int number = s.column[expert].first + warp_first[item] + number_of(choice);
        int arc;
        if (kHasFewArcs) {
          arc = warp_arc[item];
          while (s.quota_end[arc] <= number) ++arc;
        } else {
          arc = serving_arc(t, s, item, number);
        }
        slot = t.arc_slot[arc];
      }
    }
    tokens.out[i + token * tokens.m] = slot;
    if (slot < 0 || circle.size == 0) continue;
    const int rank = per_rank.divide(slot);
#pragma unroll 1
    for (int unit = token * tokens.m; unit < (token + 1) * tokens.m; ++unit) {
      atomicMin(&offers[unit], preference(circle, s, unit, i - token * tokens.k, rank));
    }
  }
  __syncwarp();
}

// Numbers the offers of this warp for every rank.
template <typename Id>
__device__ void number_offers(const Block& b, const WarpTokens<Id>& tokens, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const auto counter = s.warp_offers.from(b.warp * num_ranks);
#pragma unroll 1
  for (int r = b.lane; r < num_ranks; r += 32) counter[r] = 0;
  __syncwarp();
  const int end = tokens.end * tokens.m;
  const auto peers = s.peers.from(b.warp * num_ranks);
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
#pragma unroll 1
  for (int first = tokens.begin * tokens.m; first < end; first += 32) {
    const int unit = first + b.lane;
    const uint32_t best = unit < end ? offers[unit] : kInactive;
    const int rank = best < kNoOffer ? static_cast<int>(best & ((1u << kRankBits) - 1)) : -1;
    const int number = number_among_peers(rank, peers, counter, b.lane);
    if (rank >= 0) offers[unit] = static_cast<uint32_t>(number << kRankBits | rank);
  }
  __syncthreads();
}

// Turns warp_offers into the number of each warp's first offer in the block, and tells all blocks
// how many each rank gets from this one.
__device__ inline void send_offers(const Block& b, const Scratch& s) {
  const int size = b.shape.offer_row_size();
  if (b.thread < size) {
    const bool is_rank = b.thread < b.shape.num_ranks;
    s.block_offers[b.thread] =
        is_rank ? start_from(s.warp_offers.from(b.thread), b.shape.num_ranks) : 0;
  }
  __syncthreads();
  const auto row = s.sent_offers.from(b.index * size);
  if (4 * b.lane >= size) return;
  uint32_t offers[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) offers[j] = s.block_offers[4 * b.lane + j];
  send(s, kOffers, b.warp, row, 4 * b.lane, {offers[0], offers[1], offers[2], offers[3]});
}

// Of the offers to each rank, those of lower blocks; and what they all leave of the quotas, summed
// up. By one warp.
__device__ inline void sum_offers(const Block& b, const Scratch& s) {
  const int num_ranks = b.shape.num_ranks;
  const int size = b.shape.offer_row_size();
  int sum = 0;
#pragma unroll 1
  for (int first = 0; first < num_ranks; first += 32) {
    const bool is_rank = first + b.lane < num_ranks;
    const int r = is_rank ? first + b.lane : 0;
    int before = 0;
    int total = 0;
#pragma unroll
    for (int c = 0; c < kBlocks; ++c) {
      const int offers = s.sent_offers[c * size + r];
      before += c < b.index ? offers : 0;
      total += offers;
    }
    const int away = s.away_begin[r + 1] - s.away_begin[r];
    const int home = b.shape.num_shared_experts * s.tokens[r] - s.away_begin[num_ranks];
    const int left = (r == b.source ? home : away) - min(away, total);
    const int end = sum + scan_lanes(is_rank ? left : 0, b.lane);
    if (is_rank) {
      s.left_end[r] = end;
      s.offers_before[r] = before;
    }
    sum = __shfl_sync(kFullWarp, end, 31);
  }
}

// The undecided shared experts of lower blocks' and warps' tokens: active ones less those whose
// offer was met.
__device__ inline int count_undecided(const Block& b, const Scratch& s) {
  const int m = b.shape.num_shared_experts;
  int undecided = 0;  // lane by lane
  if (b.lane < b.index) undecided += m * s.block_active[b.lane];
  if (b.lane < b.warp) undecided += m * s.warp_active[b.lane];
#pragma unroll 1
  for (int r = b.lane; r < b.shape.num_ranks; r += 32) {
    const int offers = s.offers_before[r] + s.warp_offers[b.warp * b.shape.num_ranks + r];
    undecided -= min(offers, s.away_begin[r + 1] - s.away_begin[r]);
  }
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
                             Divisor per_token,
                             const Scratch& s,
                             int undecided_before) {
  const auto first_number = s.warp_offers.from(b.warp * b.shape.num_ranks);
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
  const int end = tokens.end * tokens.m;
#pragma unroll 1
  for (int first = tokens.begin * tokens.m; first < end; first += 32) {
    const int unit = first + b.lane;
    const uint32_t offer = unit < end ? offers[unit] : kInactive;
    int rank = -1;
    if (offer < kNoOffer) {
      rank = static_cast<int>(offer & ((1u << kRankBits) - 1));
      const int number = s.offers_before[rank] + first_number[rank] + (offer >> kRankBits);
      if (number >= s.away_begin[rank + 1] - s.away_begin[rank]) rank = -1;
    }
    const bool is_undecided = offer != kInactive && rank < 0;
    const unsigned undecided = __ballot_sync(kFullWarp, is_undecided);
    if (is_undecided) {
      const int number = undecided_before + __popc(undecided & ((1u << b.lane) - 1));
      rank = rank_of_left_over(b, s, number);
    }
    undecided_before += __popc(undecided);
    if (unit < end) write_shared(b, tokens, per_token.divide(unit), unit, rank);
  }
}

template <typename Id>
__device__ void keep_shared_at_home(const Block& b,
                                    const WarpTokens<Id>& tokens,
                                    Divisor per_token,
                                    const Scratch& s) {
  const auto offers = s.offers.from(-tokens.block_begin * tokens.m);
#pragma unroll 1
  for (int unit = tokens.begin * tokens.m + b.lane; unit < tokens.end * tokens.m; unit += 32) {
    const int rank = offers[unit] == kInactive ? -1 : b.source;
    write_shared(b, tokens, per_token.divide(unit), unit, rank);
  }
}

// The tokens of this block, once the quotas are there. per_token: of shared experts.
template <Size kSize, typename Id>
__device__ void assign_tokens(const Block& b,
                              const Tables& t,
                              const WarpTokens<Id>& tokens,
                              Divisor per_rank,
                              Divisor per_token,
                              const Scratch& s) {
  const Circle circle(b, s);
  assign_routed<kSize>(b, t, tokens, per_rank, circle, s);
  if (circle.size == 0) {
    keep_shared_at_home(b, tokens, per_token, s);
    return;
  }
  number_offers(b, tokens, s);
  send_offers(b, s);
  wait_for(s, kOffers);
  if (b.warp == 0) sum_offers(b, s);
  __syncthreads();
  place_shared(b, tokens, per_token, s, count_undecided(b, s));
}

}  // namespace plimsoll::gpu
