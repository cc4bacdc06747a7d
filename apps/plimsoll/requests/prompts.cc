#include "requests/prompts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "shared/text_file.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

Result<std::vector<fs::path>> text_files(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return std::vector<fs::path>{path};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  if (error) return io_error(fmt::format("{}: {}", path.string(), error.message()));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<std::string> split_prompts(std::string_view text) {
  std::vector<std::string> prompts;
  std::string prompt;
  const auto finish = [&] {
    if (!prompt.empty() && prompt.back() == '\n') prompt.pop_back();
    if (!prompt.empty()) prompts.push_back(prompt);
    prompt.clear();
  };
  while (!text.empty()) {
    const size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, length);
    text.remove_prefix(length);
    if (line == "%\n" || line == "%") {
      finish();
    } else {
      prompt += line;
    }
  }
  finish();
  return prompts;
}

Result<std::vector<std::string>> read_prompts(const std::vector<std::string>& paths) {
  std::vector<std::string> prompts;
  for (const std::string& path : paths) {
    const auto files = text_files(path);
    if (!files) return files.error();
    for (const fs::path& file : *files) {
      const auto text = read_text(file);
      if (!text) return text.error();
      for (std::string& prompt : split_prompts(*text)) prompts.push_back(std::move(prompt));
    }
  }
  if (prompts.empty()) {
    return invalid_argument(
        fmt::format("no prompt in {}; expected text files, or folders with *.txt files",
                    fmt::join(paths, ", ")));
  }
  return prompts;
}

std::vector<std::string> repeated(const std::vector<std::string>& prompts, int count) {
  if (count == 0) return prompts;
  std::vector<std::string> taken;
  for (int i = 0; i < count; ++i) taken.push_back(prompts[i % prompts.size()]);
  return taken;
}

}  // namespace plimsoll
