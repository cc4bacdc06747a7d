#include "cuda/experts/packed_experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace plimsoll::gpu {
namespace {

constexpr int kScaleInputs = 32;
constexpr int kProductBytes = 4096 + 256;  // kFp4: codes and scales of 64 rows and 128 inputs
constexpr int kFp8ProductBytes = 64 * kBlockInputs;

uint8_t code_at(const CheckpointMatrix& m, int row, int column) {
  const size_t at = (static_cast<size_t>(row) * m.columns + column) / 2;
  return column % 2 ? m.values[at] >> 4 : m.values[at] & 15;
}

uint8_t scale_at(const CheckpointMatrix& m, int row, int group) {
  return m.scales[static_cast<size_t>(row) * (m.columns / kScaleInputs) + group];
}

bool all_zero(const CheckpointMatrix& m, int row, int group) {
  const uint8_t* bytes =
      m.values.data() + (static_cast<size_t>(row) * m.columns + group * kScaleInputs) / 2;
  return std::all_of(bytes, bytes + kScaleInputs / 2, [](uint8_t b) { return (b & 0x77) == 0; });
}

struct ScaleRange {
  int low = 255;
  int high = 0;  // below low: the row is zero
};
ScaleRange scale_range(const CheckpointMatrix& m, int row) {
  ScaleRange range;
  for (int group = 0; group < m.columns / kScaleInputs; ++group) {
    if (all_zero(m, row, group)) continue;
    range.low = std::min<int>(range.low, scale_at(m, row, group));
    range.high = std::max<int>(range.high, scale_at(m, row, group));
  }
  return range;
}

// Input of code i of the word of thread t (of four) within 32 inputs.
constexpr int word_input(int t, int i) {
  return i / 4 * 16 + t * 4 + i % 4;
}

uint32_t word_of(const uint8_t (&codes)[8]) {
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) {
    const uint32_t sign = codes[i] >> 3;
    word |= static_cast<uint32_t>(codes[i] & 7) << (4 * i);
    word |= sign << (i < 4 ? 8 * i + 7 : 8 * (i - 4) + 3);
  }
  return word;
}

// Where the word of (mma row of the product, thread t, group of 32 inputs) lies in a product.
constexpr int word_offset(int row, int t, int group) {
  const int thread = row / 16 * 32 + row % 8 * 4 + t;
  return group / 2 * 2048 + thread * 16 + (group % 2 * 2 + row / 8 % 2) * 4;
}
constexpr int scale_offset(int row, int group) {
  return 4096 + ((row / 16 * 8 + row % 8) * 2 + row / 8 % 2) * 4 + group;
}
// kFp8: where input `column` of the block's 128 lies.
constexpr int byte_offset(int row, int column) {
  const int group = column / 32, in = column % 32;
  const int thread = row / 16 * 32 + row % 8 * 4 + in % 16 / 4;
  return group * 2048 + thread * 16 + (in / 16 * 2 + row / 8 % 2) * 4 + in % 4;
}

float power_of_two(int e8m0) {
  return std::ldexp(1.0f, e8m0 - 127);
}

// One row of 64 rows and 128 inputs.
void pack_fp4_row(const CheckpointMatrix& m, int source, int block, int top, int row, uint8_t* to) {
  for (int group = 0; group < kBlockInputs / kScaleInputs; ++group) {
    const int first = block * kBlockInputs + group * kScaleInputs;
    if (first >= m.columns || all_zero(m, source, first / kScaleInputs)) continue;
    to[scale_offset(row, group)] =
        static_cast<uint8_t>(top - scale_at(m, source, first / kScaleInputs));
    for (int t = 0; t < 4; ++t) {
      uint8_t codes[8];
      for (int i = 0; i < 8; ++i) codes[i] = code_at(m, source, first + word_input(t, i));
      const uint32_t word = word_of(codes);
      std::memcpy(to + word_offset(row, t, group), &word, 4);
    }
  }
}

void pack_fp4(Projection projection, std::span<const CheckpointMatrix> matrices, PackedMatrix& to) {
  const int tiles = num_tiles(projection, matrices[0].rows);
  const int blocks = num_blocks(matrices[0].columns);
  const size_t code_bytes = static_cast<size_t>(tiles) * blocks * block_bytes(WeightFormat::kFp4);
  to.bytes.assign(code_bytes + static_cast<size_t>(tiles) * kTileRows * 4, 0);
  for (int i = 0; i < tiles * kTileRows; ++i) {
    const TileRow place = tile_row(projection, i / kTileRows, i % kTileRows);
    const CheckpointMatrix& m = matrices[place.matrix];
    if (place.row >= m.rows) continue;
    const ScaleRange range = scale_range(m, place.row);
    if (range.high < range.low) continue;
    to.scale_span = std::max(to.scale_span, range.high - range.low);
    const float scale = power_of_two(range.high);
    std::memcpy(to.bytes.data() + code_bytes + static_cast<size_t>(i) * 4, &scale, 4);
    for (int block = 0; block < blocks; ++block) {
      const size_t at =
          (static_cast<size_t>(i / kTileRows) * blocks + block) * block_bytes(WeightFormat::kFp4) +
          i % kTileRows / 64 * kProductBytes;
      pack_fp4_row(m, place.row, block, range.high, i % 64, to.bytes.data() + at);
    }
  }
}

void pack_fp8(Projection projection, std::span<const CheckpointMatrix> matrices, PackedMatrix& to) {
  const int tiles = num_tiles(projection, matrices[0].rows);
  const int blocks = num_blocks(matrices[0].columns);
  const int bytes = block_bytes(WeightFormat::kFp8);
  to.bytes.assign(static_cast<size_t>(tiles) * blocks * bytes, 0);
  for (int i = 0; i < tiles * kTileRows; ++i) {
    const TileRow place = tile_row(projection, i / kTileRows, i % kTileRows);
    const CheckpointMatrix& m = matrices[place.matrix];
    if (place.row >= m.rows) continue;
    for (int column = 0; column < m.columns; ++column) {
      const int block = column / kBlockInputs;
      uint8_t* at = to.bytes.data() + (static_cast<size_t>(i / kTileRows) * blocks + block) * bytes;
      const int row = i % kTileRows;
      at[row / 64 * kFp8ProductBytes + byte_offset(row % 64, column % kBlockInputs)] =
          m.values[static_cast<size_t>(place.row) * m.columns + column];
      const float scale =
          power_of_two(m.scales[static_cast<size_t>(place.row / 128) * blocks + block]);
      // [warpgroup][half]
      std::memcpy(at + 4 * kFp8ProductBytes + (row / 128 * 2 + row / 8 % 2) * 4, &scale, 4);
    }
  }
}

Status check_matrix(WeightFormat format, const CheckpointMatrix& m) {
  const size_t rows = static_cast<size_t>(m.rows), columns = static_cast<size_t>(m.columns);
  const bool fp4 = format == WeightFormat::kFp4;
  const size_t values = fp4 ? rows * columns / 2 : rows * columns;
  const size_t scales =
      fp4 ? rows * (columns / kScaleInputs) : (rows + 127) / 128 * ((columns + 127) / 128);
  if (m.rows <= 0 || m.columns <= 0 || m.columns % kScaleInputs != 0 || m.values.size() != values ||
      m.scales.size() != scales) {
    return invalid_argument("an expert's matrix of " + std::to_string(m.rows) + " x " +
                            std::to_string(m.columns) + " has " + std::to_string(m.values.size()) +
                            " bytes of values and " + std::to_string(m.scales.size()) +
                            " of scales; expected " + std::to_string(values) + " and " +
                            std::to_string(scales) + ", and columns in multiples of 32");
  }
  if (std::find(m.scales.begin(), m.scales.end(), 255) != m.scales.end()) {
    return corrupt_file("an expert's scales hold 255, which is not a number");
  }
  return ok_status();
}

}  // namespace

Result<PackedMatrix> pack_experts(WeightFormat format,
                                  Projection projection,
                                  std::span<const CheckpointMatrix> matrices) {
  const size_t expected = projection == Projection::kGateUp ? 2 : 1;
  if (matrices.size() != expected) {
    return invalid_argument("packing an expert: expected " + std::to_string(expected) +
                            " matrices, got " + std::to_string(matrices.size()));
  }
  for (const CheckpointMatrix& m : matrices) {
    if (Status status = check_matrix(format, m); !status.ok()) return status.error();
    if (m.rows != matrices[0].rows || m.columns != matrices[0].columns) {
      return invalid_argument("packing an expert: w1 and w3 differ in size");
    }
  }
  PackedMatrix packed;
  if (format == WeightFormat::kFp4) {
    pack_fp4(projection, matrices, packed);
  } else {
    pack_fp8(projection, matrices, packed);
  }
  if (packed.scale_span > kMaxSpanFp16) {
    return unsupported("an expert's scales of one row lie 2^" + std::to_string(packed.scale_span) +
                       " apart; up to 2^" + std::to_string(kMaxSpanFp16) +
                       " can be multiplied without loss");
  }
  return packed;
}

}  // namespace plimsoll::gpu
