// The parts of a request's target.
#pragma once

#include <map>
#include <string>

namespace plimsoll {

// "/a/b?x=1&y=%20" becomes path "/a/b" and query {x: "1", y: " "}. A malformed escape stays as it
// is.
void split_target(const std::string& target,
                  std::string& path,
                  std::map<std::string, std::string>& query);

}  // namespace plimsoll
