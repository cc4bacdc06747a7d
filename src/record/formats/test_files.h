// Where the tests find their files.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace plimsoll {

inline std::string recorder_file(const std::string& name) {
  return std::string(PLIMSOLL_SOURCE_DIR) + "/testdata/recorder-files/" + name;
}

// A folder of its own for one test, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "plimsoll-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace plimsoll
