// For tests: the reference's answers in testdata/eplb, int32 matrices in a safetensors file.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

namespace plimsoll {

struct Int32Tensor {
  std::vector<int> shape;
  std::vector<int32_t> values;
};

// Reads files of ours, in which every tensor is I32:
// "name":{...,"shape":[..],"data_offsets":[a,b]}.
inline std::map<std::string, Int32Tensor> read_answers(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::map<std::string, Int32Tensor> tensors;
  if (bytes.size() < 8) return tensors;
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  const std::string header = bytes.substr(8, header_size);
  const auto numbers_after = [&](const std::string& key, size_t from) {
    std::vector<int> numbers;
    size_t at = header.find('[', header.find(key, from));
    while (header[at] != ']') {
      size_t used = 0;
      numbers.push_back(std::stoi(header.substr(at + 1), &used));
      at = header.find_first_of(",]", at + 1);
    }
    return numbers;
  };
  for (size_t dtype = header.find("{\"dtype\""); dtype != std::string::npos;
       dtype = header.find("{\"dtype\"", dtype + 1)) {
    const size_t end = header.rfind('"', dtype);
    const size_t begin = header.rfind('"', end - 1) + 1;
    Int32Tensor tensor;
    tensor.shape = numbers_after("\"shape\"", dtype);
    const std::vector<int> offsets = numbers_after("\"data_offsets\"", dtype);
    tensor.values.resize((offsets[1] - offsets[0]) / 4);
    std::memcpy(tensor.values.data(), &bytes[8 + header_size + offsets[0]],
                offsets[1] - offsets[0]);
    tensors[header.substr(begin, end - begin)] = tensor;
  }
  return tensors;
}

}  // namespace plimsoll
