// What the program says: results go to stdout, everything else to stderr.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

void print(std::string_view result);      // stdout
void print_now(std::string_view result);  // stdout, without waiting for a line's end
void talk(std::string_view line);         // stderr, with a newline

// As talk, of a server that must not wait for whoever reads its log: where the reader has stalled,
// lines are dropped, and their number is told when it reads again. From any thread.
void log_line(std::string_view line);

// True where a line that is redrawn helps: stderr is a terminal, neither NO_COLOR nor TERM=dumb.
bool is_interactive();

// One line on stderr that is redrawn as work goes on, and wiped at the end. Silent where
// stderr is not interactive, or without a label.
class Progress {
 public:
  explicit Progress(std::string label) : label_(std::move(label)) {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(int64_t done, int64_t total);
  void wipe();  // before other output; the destructor does it too

 private:
  std::string label_;
  std::string shown_;
};

// "label [####....] 50 %", the label cut where the line would not fit a terminal of so many
// columns.
std::string progress_line(std::string_view label, int64_t done, int64_t total, int num_columns);

// Columns as wide as their widest cell, those of numbers right-aligned; the first row is the
// heading.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

}  // namespace plimsoll
