// "Did you mean": the nearest of the words that were allowed.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace plimsoll {

// How many single-character insertions, deletions, changes and swaps of neighbours turn a into b.
int edit_distance(std::string_view a, std::string_view b);

// The nearest candidate, or empty where none is near enough to be what was meant.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

// "; did you mean --ep-size?", or empty.
std::string did_you_mean(std::string_view word,
                         std::span<const std::string_view> candidates,
                         std::string_view prefix = "");

}  // namespace plimsoll
