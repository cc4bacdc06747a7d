// For tests of the command as a user meets it: started by a shell, judged by what it prints.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace plimsoll {

namespace fs = std::filesystem;
using nlohmann::json;

inline const std::string kRoot = PLIMSOLL_SOURCE_DIR;
inline const std::string kDemo = " --model " + kRoot + "/demo/model";
inline const std::string kDemoGolden = kDemo + " --golden " + kRoot + "/demo/golden.safetensors";

inline std::string read_file(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A folder of the running test's own, empty at its start.
inline fs::path scratch() {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const fs::path folder = fs::path(testing::TempDir()) / (std::string("plimsoll_") + test->name());
  static std::string prepared;
  if (prepared != folder) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    prepared = folder;
  }
  return folder;
}

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

// `command` as a shell reads it.
inline Outcome run_shell(const std::string& command) {
  const fs::path out = scratch() / "stdout", err = scratch() / "stderr";
  const std::string redirected = command + " </dev/null >" + out.string() + " 2>" + err.string();
  const int status = std::system(redirected.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}

inline Outcome plimsoll(const std::string& arguments) {
  return run_shell(std::string(PLIMSOLL_COMMAND) + " " + arguments);
}

// What `outcome` has on stdout, as JSON.
inline json json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  json result = json::parse(outcome.out, nullptr, false);
  EXPECT_TRUE(result.is_object()) << outcome.out << outcome.err;
  return result;
}

inline json result_of(const std::string& arguments) {
  return json_of(plimsoll(arguments + " --json"));
}

inline testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != text.npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << part << "' is not in: " << text;
}

}  // namespace plimsoll
