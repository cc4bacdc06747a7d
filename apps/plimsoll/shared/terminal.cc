#include "shared/terminal.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace plimsoll {
namespace {

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value;
}

// Code points, as a terminal gives each one column; enough for the text we print.
size_t width_of(std::string_view text) {
  size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return width;
}

int num_columns() {
  winsize size = {};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

bool starts_as_number(std::string_view cell) {
  return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) || cell[0] == '-');
}

}  // namespace

void print(std::string_view result) {
  std::fwrite(result.data(), 1, result.size(), stdout);
}

void print_now(std::string_view result) {
  print(result);
  std::fflush(stdout);
}

void talk(std::string_view line) {
  fmt::print(stderr, "{}\n", line);
}

void log_line(std::string_view line) {
  static std::atomic<int64_t> num_dropped = 0;
  // A pipe that polls writable takes this many bytes without blocking.
  constexpr size_t kMaxBytes = 4000;
  pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&out, 1, 0) != 1 || (out.revents & POLLOUT) == 0) {
    ++num_dropped;
    return;
  }
  std::string text;
  if (const int64_t lost = num_dropped.exchange(0); lost > 0) {
    text = fmt::format("({} lines were dropped while nobody read them)\n", lost);
  }
  text += std::string(line.substr(0, kMaxBytes - 100)) + "\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

bool is_interactive() {
  const char* terminal = std::getenv("TERM");
  const bool dumb = !terminal || std::strcmp(terminal, "dumb") == 0;
  return isatty(STDERR_FILENO) && !dumb && !is_set("NO_COLOR");
}

Progress::~Progress() {
  wipe();
}

void Progress::wipe() {
  if (!shown_.empty()) fmt::print(stderr, "\r\033[K");
  shown_.clear();
}

void Progress::show(int64_t done, int64_t total) {
  if (label_.empty() || !is_interactive() || total <= 0) return;
  std::string line = progress_line(label_, done, total, num_columns());
  if (line == shown_) return;
  fmt::print(stderr, "\r{}\033[K", line);
  std::fflush(stderr);
  shown_ = std::move(line);
}

std::string progress_line(std::string_view label, int64_t done, int64_t total, int num_columns) {
  constexpr int kBarWidth = 24;
  const int filled = static_cast<int>(kBarWidth * done / total);
  const std::string bar =
      fmt::format(" [{:#<{}}{:.<{}}] {} %", "", filled, "", kBarWidth - filled, 100 * done / total);
  // The last column stays free: a terminal may wrap once it is written.
  const size_t room =
      static_cast<size_t>(std::max(0, num_columns - 1 - static_cast<int>(bar.size())));
  return std::string(label.substr(0, room)) + bar;
}

std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  const size_t num_columns = rows.front().size();
  std::vector<size_t> widths(num_columns);
  std::vector<bool> numeric(num_columns, true);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < num_columns; ++c) {
      widths[c] = std::max(widths[c], width_of(rows[r][c]));
      if (r > 0) numeric[c] = numeric[c] && starts_as_number(rows[r][c]);
    }
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < num_columns; ++c) {
      const std::string padding(widths[c] - width_of(row[c]), ' ');
      if (c > 0) line += "  ";
      line += numeric[c] ? padding + row[c] : row[c] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace plimsoll
