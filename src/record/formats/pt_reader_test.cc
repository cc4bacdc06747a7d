#include "record/formats/pt_reader.h"

#include <gtest/gtest.h>

#include "record/formats/file_io.h"
#include "record/formats/number_array.h"
#include "record/formats/pickle.h"
#include "record/formats/pt_writer.h"
#include "record/formats/test_files.h"
#include "record/formats/zip.h"

namespace plimsoll {
namespace {

using namespace std::string_literals;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string refusal(const std::string& pickle) {
  const Result<Pickle> decoded = decode_pickle(bytes_of(pickle));
  return decoded.ok() ? "(accepted)" : decoded.error().message;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// (('storage', torch.IntStorage, '0', 'cpu', num_elements)) as a persistent id.
std::string storage(const std::string& num_elements) {
  return "(X\7\0\0\0storagectorch\nIntStorage\nX\1\0\0\0"s + "0X\3\0\0\0cpu"s + num_elements + "tQ";
}

std::string tensor(const std::string& num_elements,
                   const std::string& shape,
                   const std::string& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n("s + storage(num_elements) + "K\0"s + shape +
         strides + "\x89}tR.";
}

TEST(Pickle, ReadsPlainValues) {
  const std::string text =
      "\x80\2}q\0(X\1\0\0\0a]q\1(K\7J\xfe\xff\xff\xffM\0\1\x8a\2\0\x80\x8a\0eX\1\0\0\0bN"s +
      "X\1\0\0\0c\x88X\1\0\0\0dG\x3f\xf8\0\0\0\0\0\0X\1\0\0\0eh\1K\5K\6u."s;
  const std::string followed = text + "more";
  const Result<Pickle> pickle = decode_pickle(bytes_of(followed));
  ASSERT_TRUE(pickle.ok()) << pickle.error().message;
  EXPECT_EQ(pickle->bytes.size(), text.size());
  const PtValue root(*pickle, pickle->root);
  EXPECT_EQ(root.keys(), "a, b, c, d, e, 5");
  const PtValue list = *root.find("a");
  ASSERT_EQ(list.list_size(), 5u);
  EXPECT_EQ(list.item(0).as_int(), 7);
  EXPECT_EQ(list.item(1).as_int(), -2);
  EXPECT_EQ(list.item(2).as_int(), 256);
  EXPECT_EQ(list.item(3).as_int(), -32768);
  EXPECT_EQ(list.item(4).as_int(), 0);
  EXPECT_TRUE(root.find("b")->is_none());
  EXPECT_FALSE(root.find("c")->as_int().has_value());
  EXPECT_EQ(root.find_float("d"), 1.5);
  EXPECT_EQ(root.find("e")->item(1).as_int(), -2);
  EXPECT_FALSE(root.find("f").has_value());
}

TEST(Pickle, RefusesWhatIsNotPlain) {
  EXPECT_TRUE(contains(refusal("cos\nsystem\nX\2\0\0\0ls\x85R."s), "os.system"));
  EXPECT_TRUE(contains(refusal("c__builtin__\neval\n."), "__builtin__.eval"));
  EXPECT_TRUE(contains(refusal("cos\n\x1b[2Jsystem\n."), "os.?[2Jsystem"));
  EXPECT_TRUE(contains(refusal("\x80\4\x95\0\0\0\0\0\0\0\0."s), "opcode 0x95"));
  EXPECT_TRUE(contains(refusal("(lp0\n."), "opcode 0x6c"));
  EXPECT_TRUE(contains(refusal("}}b."), "opcode 0x62"));
}

TEST(Pickle, RefusesBrokenOnes) {
  EXPECT_TRUE(contains(refusal(""), "truncated"));
  EXPECT_TRUE(contains(refusal("}"), "truncated"));
  EXPECT_TRUE(contains(refusal("ctorch"), "truncated"));
  EXPECT_TRUE(contains(refusal("X\xff\xff\xff\xffyz"), "truncated"));
  EXPECT_TRUE(contains(refusal("."), "empty stack"));
  EXPECT_TRUE(contains(refusal("t."), "empty stack"));
  EXPECT_TRUE(contains(refusal("](a."), "empty stack"));
  EXPECT_TRUE(contains(refusal("h\1."), "recalls"));
  EXPECT_TRUE(contains(refusal("}N]s."), "dict key"));
  EXPECT_TRUE(contains(refusal("}(K\1u."), "no dict"));
  EXPECT_TRUE(contains(refusal("NNa."), "no list"));
  EXPECT_TRUE(contains(refusal("N)R."), "no function"));
  EXPECT_TRUE(contains(refusal("\x8a\x9\1\2\3\4\5\6\7\x8\x9."), "64 bits"));
}

TEST(Pickle, RefusesTensorsLargerThanTheirStorage) {
  const std::string ten = "K\x0a";
  EXPECT_EQ(refusal(tensor(ten, "K\2K\5\x86", "K\5K\1\x86")), "(accepted)");
  EXPECT_TRUE(contains(refusal(tensor(ten, "K\2K\6\x86", "K\6K\1\x86")), "larger than"));
  EXPECT_TRUE(contains(refusal(tensor(ten, "K\2K\5\x86", "K\6K\1\x86")), "larger than"));
  EXPECT_TRUE(contains(refusal(tensor(ten, "K\2J\xff\xff\xff\xff\x86", "K\1K\1\x86")), "negative"));
  // Expanded rows cost nothing until they are many.
  EXPECT_EQ(refusal(tensor(ten, "K\x63K\x0a\x86", "K\0K\1\x86"s)), "(accepted)");
  const std::string many = "\x8a\x8\0\0\0\0\0\0\0\x40"s;
  EXPECT_TRUE(contains(refusal(tensor(ten, many + many + "\x86", "K\0K\0\x86"s)), "larger than"));
  EXPECT_TRUE(contains(refusal(tensor(ten, many + "K\0\x86"s, "K\1K\1\x86")), "larger than"));
  EXPECT_TRUE(contains(refusal(tensor(ten, "K\3\x85", many + "\x85")), "larger than"));
}

TEST(PtReader, RefusesTheMaliciousFile) {
  const auto bytes = read_file(recorder_file("malicious.pt"));
  ASSERT_TRUE(bytes.ok());
  const Result<PtFile> file = parse_pt(*bytes);
  ASSERT_FALSE(file.ok());
  EXPECT_TRUE(contains(file.error().message, "posix.system")) << file.error().message;
  EXPECT_TRUE(contains(file.error().message, "nothing was executed"));
}

TEST(PtReader, ReadsTransposedTensors) {
  const auto bytes = read_file(recorder_file("non_contiguous.pt"));
  ASSERT_TRUE(bytes.ok());
  const Result<PtFile> file = parse_pt(*bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const PtTensor* tensor = file->root().find("logical_count")->as_tensor();
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->strides, (std::vector<int64_t>{384, 1, 6}));
  const Result<NumberArray> numbers = numbers_of(*file, *tensor);
  ASSERT_TRUE(numbers.ok());
  EXPECT_EQ(numbers->shape, (std::vector<int64_t>{60, 6, 64}));
  const std::vector<int64_t> layer_1(numbers->values.begin() + 64, numbers->values.begin() + 69);
  EXPECT_EQ(layer_1, (std::vector<int64_t>{31, 228, 88, 381, 1827}));
}

TEST(PtReader, EveryTruncationIsRefused) {
  for (const char* name : {"float_counts.pt", "legacy_format.pt"}) {
    const auto bytes = read_file(recorder_file(name));
    ASSERT_TRUE(bytes.ok());
    for (size_t size = 0; size < bytes->size(); size += 1 + size / 16) {
      EXPECT_FALSE(parse_pt(std::span(*bytes).first(size)).ok()) << name << " cut to " << size;
    }
  }
}

TEST(PtReader, NoticesAFlippedBit) {
  auto bytes = read_file(recorder_file("float_counts.pt"));
  ASSERT_TRUE(bytes.ok());
  (*bytes)[1500] ^= std::byte{1};
  const Result<PtFile> file = parse_pt(*bytes);
  ASSERT_TRUE(file.ok()) << "storages are read when they are asked for";
  const auto numbers = numbers_of(*file, *file->root().find("logical_count")->as_tensor());
  ASSERT_FALSE(numbers.ok());
  EXPECT_TRUE(contains(numbers.error().message, "damaged")) << numbers.error().message;
}

TEST(PtReader, RefusesStoragesThatAreTooShort) {
  const std::string pickle = "\x80\2"s + tensor("J\0\0\0\x40"s, "K\1\x85", "K\1\x85");
  const auto view = bytes_of(pickle);
  const std::vector<ZipEntry> entries = {{"a/data.pkl", {view.begin(), view.end()}},
                                         {"a/data/0", std::vector<std::byte>(8)}};
  const auto zip = make_zip(entries);
  ASSERT_TRUE(zip.ok());
  const Result<PtFile> file = parse_pt(*zip);
  ASSERT_FALSE(file.ok());
  EXPECT_TRUE(contains(file.error().message, "claims 1073741824 elements")) << file.error().message;
}

TEST(PtWriter, IsReadBack) {
  const std::vector<int32_t> values = {1, -2, 3, 400000, 5, 6};
  const int64_t shape[] = {2, 3};
  PtWriter pt;
  pt.begin_dict();
  pt.key("numbers");
  pt.tensor(values, shape);
  pt.key("list");
  pt.integers(values);
  pt.key("big");
  pt.integer(-(int64_t{1} << 40));
  pt.key("half");
  pt.real(0.5);
  pt.key("nothing");
  pt.none();
  pt.end_dict();
  const auto bytes = pt.finish();
  ASSERT_TRUE(bytes.ok()) << bytes.error().message;
  const Result<PtFile> file = parse_pt(*bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const PtValue root = file->root();
  EXPECT_EQ(root.keys(), "numbers, list, big, half, nothing");
  const Result<NumberArray> numbers = numbers_of(*file, *root.find("numbers")->as_tensor());
  ASSERT_TRUE(numbers.ok());
  EXPECT_EQ(numbers->values, std::vector<int64_t>(values.begin(), values.end()));
  EXPECT_EQ(root.find("list")->item(3).as_int(), 400000);
  EXPECT_EQ(root.find_int("big"), -(int64_t{1} << 40));
  EXPECT_EQ(root.find_float("half"), 0.5);
  EXPECT_TRUE(root.find("nothing")->is_none());
}

}  // namespace
}  // namespace plimsoll
