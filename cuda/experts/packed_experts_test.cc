#include "cuda/experts/packed_experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace plimsoll::gpu {
namespace {

struct Matrix {
  int rows, columns;
  std::vector<uint8_t> values, scales;

  CheckpointMatrix view() const { return {values, scales, rows, columns}; }
};

Matrix random_fp4(int rows, int columns, int spread, std::mt19937& random) {
  Matrix m{rows, columns, {}, {}};
  for (int i = 0; i < rows * columns / 2; ++i) m.values.push_back(static_cast<uint8_t>(random()));
  for (int i = 0; i < rows * columns / 32; ++i) {
    m.scales.push_back(static_cast<uint8_t>(120 - random() % (spread + 1)));
  }
  return m;
}

double magnitude(int code) {
  constexpr double kValues[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  return kValues[code & 7];
}

double checkpoint_value(const Matrix& m, int row, int column) {
  const size_t place = static_cast<size_t>(row) * m.columns + column;
  const int code = m.values[place / 2] >> (place % 2 * 4) & 15;
  return (code & 8 ? -1 : 1) * magnitude(code) * std::ldexp(1.0, m.scales[place / 32] - 127);
}

// What the thread that multiplies this row and input finds, by the description in the header.
double packed_value(
    const PackedMatrix& packed, int tiles, int blocks, int tile, int row, int input) {
  const int block = input / kBlockInputs, group = input % kBlockInputs / 32, k = input % 32;
  const int in_product = row % 64, warp = in_product / 16, half = in_product % 16 / 8;
  const int g = in_product % 8, t = k % 16 / 4, thread = warp * 32 + g * 4 + t;
  const uint8_t* product =
      packed.bytes.data() +
      (static_cast<size_t>(tile) * blocks + block) * block_bytes(WeightFormat::kFp4) +
      row / 64 * 4352;
  uint32_t word;
  std::memcpy(&word, product + ((group / 2 * 128 + thread) * 4 + group % 2 * 2 + half) * 4, 4);
  const int i = k / 16 * 4 + k % 4;
  const int code = word >> (4 * i) & 7;
  const bool negative = word >> (i < 4 ? 8 * i + 7 : 8 * (i - 4) + 3) & 1;
  const int below = product[4096 + (warp * 8 + g) * 8 + half * 4 + group];
  float scale;
  std::memcpy(&scale,
              packed.bytes.data() +
                  static_cast<size_t>(tiles) * blocks * block_bytes(WeightFormat::kFp4) +
                  (static_cast<size_t>(tile) * kTileRows + row) * 4,
              4);
  return (negative ? -1 : 1) * magnitude(code) * std::ldexp(1.0, -below) * scale;
}

void expect_same_values(Projection projection, const std::vector<Matrix>& matrices) {
  std::vector<CheckpointMatrix> views;
  for (const Matrix& m : matrices) views.push_back(m.view());
  const auto packed = pack_experts(WeightFormat::kFp4, projection, views);
  ASSERT_TRUE(packed.ok()) << packed.error().message;
  const int tiles = num_tiles(projection, matrices[0].rows);
  const int blocks = num_blocks(matrices[0].columns);
  for (int tile = 0; tile < tiles; ++tile) {
    for (int row = 0; row < kTileRows; ++row) {
      const TileRow place = tile_row(projection, tile, row);
      const Matrix& m = matrices[place.matrix];
      for (int input = 0; input < blocks * kBlockInputs; ++input) {
        const bool inside = place.row < m.rows && input < m.columns;
        ASSERT_EQ(packed_value(*packed, tiles, blocks, tile, row, input),
                  inside ? checkpoint_value(m, place.row, input) : 0)
            << "tile " << tile << ", row " << row << ", input " << input;
      }
    }
  }
}

TEST(PackedExperts, HoldEveryWeightExactlyWhereItsThreadReadsIt) {
  std::mt19937 random(1);
  expect_same_values(Projection::kDown, {random_fp4(256, 128, 3, random)});
  expect_same_values(Projection::kDown, {random_fp4(300, 160, 11, random)});
  expect_same_values(Projection::kGateUp,
                     {random_fp4(130, 256, 3, random), random_fp4(130, 256, 3, random)});
}

TEST(PackedExperts, TakeNoMoreThanTheCheckpointAndAFloatARow) {
  std::mt19937 random(2);
  const Matrix m = random_fp4(512, 256, 3, random);
  const CheckpointMatrix views[] = {m.view()};
  const auto packed = pack_experts(WeightFormat::kFp4, Projection::kDown, views);
  ASSERT_TRUE(packed.ok());
  EXPECT_EQ(packed->bytes.size(), m.values.size() + m.scales.size() + 4u * 512);
  EXPECT_LE(packed->scale_span, 3);
}

TEST(PackedExperts, RefuseWhatTheyCannotHold) {
  std::mt19937 random(3);
  Matrix m = random_fp4(256, 128, 0, random);
  const CheckpointMatrix one[] = {m.view()};
  EXPECT_FALSE(pack_experts(WeightFormat::kFp4, Projection::kGateUp, one).ok());
  m.scales[5] = 255;
  const CheckpointMatrix nan[] = {m.view()};
  EXPECT_NE(pack_experts(WeightFormat::kFp4, Projection::kDown, nan).error().message.find("255"),
            std::string::npos);
  for (uint8_t& byte : m.values) byte = 0x11;
  m.scales.assign(m.scales.size(), 120);
  m.scales[1] = 120 - kMaxSpanFp16 - 1;
  const CheckpointMatrix wide[] = {m.view()};
  EXPECT_FALSE(pack_experts(WeightFormat::kFp4, Projection::kDown, wide).ok());
  m.scales.pop_back();
  const CheckpointMatrix cut[] = {m.view()};
  EXPECT_FALSE(pack_experts(WeightFormat::kFp4, Projection::kDown, cut).ok());
}

}  // namespace
}  // namespace plimsoll::gpu
