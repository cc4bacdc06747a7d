// Checks the lightning indexer on the device: scores against plain sums, the choice against the
// CPU's steps, a token alone against the same token among others; and times it. Exits with 1 if a
// check failed.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "cuda/kernels/bench.cuh"
#include "cuda/kernels/indexer.h"
#include "model/kernels/top_scores.h"

namespace plimsoll::gpu::bench {
namespace {

constexpr int kTopK = 512;

struct Problem {
  int pages_each;
  Buffer<__nv_bfloat16> q, keys;
  Buffer<float> weights;
  Buffer<int32_t> pages, visible, lengths;
  IndexerInput in;

  // shared: all tokens read the same entries, as in a prompt.
  Problem(const std::vector<int32_t>& counts, int max_entries, bool shared)
      : pages_each((max_entries + kPageEntries - 1) / kPageEntries),
        q(counts.size() * kIndexHeads * kIndexDim),
        keys(size_t(shared ? 1 : counts.size()) * pages_each * kPageEntries * kIndexDim),
        weights(counts.size() * kIndexHeads),
        pages(counts.size() * pages_each),
        visible(counts.size()),
        lengths(counts.size()) {
    const int tokens = static_cast<int>(counts.size());
    fill_bfloat16<<<512, 256>>>(q.data(), q.size(), 1, 1.0f);
    fill_bfloat16<<<512, 256>>>(keys.data(), keys.size(), 2, 1.0f);
    fill_floats<<<64, 256>>>(weights.data(), weights.size(), 3, 0.01f);
    std::vector<int32_t> rows(pages.size()), length(counts.size());
    for (int t = 0; t < tokens; ++t) {
      length[t] = std::min(max_entries, counts[t] + t % 3 * 40);
      for (int p = 0; p < pages_each; ++p) {  // pages of a sequence lie in no order
        const int of_all = (p * 7 + 3) % pages_each;
        rows[size_t(t) * pages_each + p] =
            ((shared ? 0 : t * pages_each) + (pages_each % 7 ? of_all : p)) * kPageEntries;
      }
    }
    must(cudaMemcpy(pages.data(), rows.data(), rows.size() * 4, cudaMemcpyHostToDevice));
    must(cudaMemcpy(visible.data(), counts.data(), counts.size() * 4, cudaMemcpyHostToDevice));
    must(cudaMemcpy(lengths.data(), length.data(), length.size() * 4, cudaMemcpyHostToDevice));
    in = {
        tokens,       q.data(),   weights.data(), keys.data(),    int64_t(keys.size() / kIndexDim),
        pages.data(), pages_each, visible.data(), lengths.data(), max_entries,
        kTopK};
  }
};

std::vector<float> scores_of(IndexerInput in, int first, int tokens, bool reference) {
  in.tokens = tokens;
  in.q += int64_t{first} * kIndexHeads * kIndexDim;
  in.weights += first * kIndexHeads;
  in.pages += first * in.page_stride;
  in.visible += first;
  Buffer<float> workspace(indexer_workspace_bytes(tokens, in.max_entries) / 4);
  cudaMemset(workspace.data(), 0, workspace.size() * 4);
  must((reference ? index_scores_reference : index_scores)(in, workspace.data(), nullptr),
       "scores");
  must(cudaDeviceSynchronize(), "running scores");
  auto all = workspace.host();
  all.resize(size_t(tokens) * in.max_entries);
  return all;
}

uint32_t sortable(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// What the CPU engine chooses from these scores (select_entries, model/forward/indexer.cc).
std::vector<int32_t> chosen_by_cpu(const float* scores, int n, int length) {
  std::vector<int32_t> best;
  if (n <= kTopK) {
    for (int i = 0; i < n; ++i) best.push_back(i);
    return best;
  }
  std::vector<uint32_t> order(n);
  for (int i = 0; i < n; ++i) order[i] = sortable(scores[i]);
  std::vector<uint32_t> sorted = order;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  if (sorted[kTopK - 1] != sorted[kTopK]) {
    for (int i = 0; i < n; ++i) {
      if (order[i] >= sorted[kTopK - 1]) best.push_back(i);
    }
    return best;
  }
  std::vector<ScoredEntry> row;
  for (int i = 0; i < length; ++i) row.push_back({i < n ? scores[i] : -INFINITY, i});
  select_best(row, kTopK);
  for (int i = 0; i < kTopK; ++i) best.push_back(row[i].index);
  std::sort(best.begin(), best.end());
  return best;
}

// ties: how many values the scores take; 0 leaves the real ones.
bool check_choice(const Problem& p, int ties) {
  const IndexerInput& in = p.in;
  Buffer<uint8_t> workspace(indexer_workspace_bytes(in.tokens, in.max_entries));
  must(index_scores(in, workspace.data(), nullptr));
  std::vector<float> scores(size_t(in.tokens) * in.max_entries);
  must(cudaMemcpy(scores.data(), workspace.data(), scores.size() * 4, cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < scores.size() && ties > 0; ++i) {
    scores[i] = static_cast<float>((i * 2654435761u >> 7) % ties) - 2;
  }
  must(cudaMemcpy(workspace.data(), scores.data(), scores.size() * 4, cudaMemcpyHostToDevice));
  Buffer<int32_t> entries(size_t(in.tokens) * kTopK), count(in.tokens);
  entries.poison();
  must(select_top(in, workspace.data(), {entries.data(), count.data()}, nullptr), "select_top");
  must(cudaDeviceSynchronize(), "running select_top");
  const auto got = entries.host(), counts = count.host(), visible = p.visible.host(),
             lengths = p.lengths.host();
  int wrong = 0;
  for (int t = 0; t < in.tokens; ++t) {
    const auto want = chosen_by_cpu(&scores[size_t(t) * in.max_entries], visible[t], lengths[t]);
    wrong += counts[t] != static_cast<int>(want.size()) ||
             !std::equal(want.begin(), want.end(), got.begin() + size_t(t) * kTopK);
  }
  std::printf("choice of %d, scores of %d values: %d of %d tokens wrong%s\n", kTopK, ties, wrong,
              in.tokens, wrong == 0 ? "" : "  WRONG");
  return wrong == 0;
}

bool check() {
  const std::vector<int32_t> counts = {1,   63,   64,   65,   511,  512, 513,
                                       600, 1000, 1023, 2000, 2999, 3000};
  const Problem p(counts, 3000, false);
  const int tokens = p.in.tokens;
  const auto y = scores_of(p.in, 0, tokens, false), exact = scores_of(p.in, 0, tokens, true);
  int different = 0;
  for (int t = 0; t < tokens; ++t) {
    const auto one = scores_of(p.in, t, 1, false);
    different += std::memcmp(one.data(), &y[size_t(t) * p.in.max_entries], one.size() * 4) != 0;
  }
  const double far = distance(y, exact);
  bool good = far < 1e-6 && different == 0;
  std::printf("index scores: distance %.1e, tokens that differ alone %d%s\n", far, different,
              good ? "" : "  WRONG");
  for (const int ties : {0, 1, 3, 50, 100000}) good &= check_choice(p, ties);
  return good;
}

void time(int tokens, int entries, bool shared) {
  const Problem p(std::vector<int32_t>(tokens, entries), entries, shared);
  Buffer<uint8_t> workspace(indexer_workspace_bytes(tokens, entries));
  Buffer<int32_t> selected(size_t(tokens) * kTopK), count(tokens);
  const int launches = tokens > 1000 ? 2 : 10;
  const double scoring = time_us(launches, [&](int, cudaStream_t stream) {
    return index_scores(p.in, workspace.data(), stream);
  });
  const double selecting = time_us(launches, [&](int, cudaStream_t stream) {
    return select_top(p.in, workspace.data(), {selected.data(), count.data()}, stream);
  });
  const double operations = 2.0 * tokens * entries * kIndexHeads * kIndexDim;
  const double bytes = 2.0 * (p.keys.size() + p.q.size()) + 4.0 * tokens * entries;
  const double floor = std::max(operations / kBfloat16PerUs, bytes / kBytesPerUs);
  const double select_floor = (4.0 * tokens * entries + 4.0 * tokens * kTopK) / kBytesPerUs;
  std::printf("| %d | %d | %.1f | %.1f | %.2f | %.1f | %.1f |\n", tokens, entries, scoring, floor,
              scoring / floor, selecting, select_floor);
}

int main_of_bench() {
  const bool good = check();
  std::printf(
      "| tokens | entries | scores, us | floor, us | times floor | top 512, us | floor, us |\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const int entries : {1024, 8192}) {
    for (const int tokens : {1, 16, 64, 256}) time(tokens, entries, false);
    time(4096, entries, true);
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace plimsoll::gpu::bench

int main() {
  return plimsoll::gpu::bench::main_of_bench();
}
