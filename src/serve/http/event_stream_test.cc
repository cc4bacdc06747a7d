#include "serve/http/event_stream.h"

#include <gtest/gtest.h>

#include <vector>

namespace plimsoll {
namespace {

using Events = std::vector<std::string>;

// The events of `bytes`, which arrive `step` at a time.
Events events_of(std::string_view bytes, size_t step) {
  Events events;
  EventStream stream([&](std::string_view data) { events.emplace_back(data); });
  for (size_t at = 0; at < bytes.size(); at += step) {
    EXPECT_TRUE(stream.push(bytes.substr(at, step)));
  }
  return events;
}

TEST(EventStream, CutsAnyPiecesIntoTheSameEvents) {
  const std::string bytes =
      ": a comment\n\ndata: one\n\nevent: x\ndata: two\r\ndata:more\r\nid: 7\r\n\r\n"
      "data: three\r\rdata\n\ndata: not finished";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    EXPECT_EQ(events_of(bytes, step), (Events{"one", "two\nmore", "three"})) << step;
  }
}

TEST(EventStream, RefusesAnEndlessEvent) {
  EventStream stream([](std::string_view) { FAIL(); });
  const std::string megabyte(1 << 20, 'x');
  ASSERT_TRUE(stream.push("data: "));
  for (int i = 0; i < 15; ++i) ASSERT_TRUE(stream.push(megabyte));
  EXPECT_FALSE(stream.push(megabyte));
}

}  // namespace
}  // namespace plimsoll
