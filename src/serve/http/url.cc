#include "serve/http/url.h"

#include <algorithm>
#include <string_view>

namespace plimsoll {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size();
    const int high = escape ? hex_digit(text[i + 1]) : -1;
    const int low = escape ? hex_digit(text[i + 2]) : -1;
    if (high >= 0 && low >= 0) {
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

}  // namespace

void split_target(const std::string& target,
                  std::string& path,
                  std::map<std::string, std::string>& query) {
  const size_t mark = std::min(target.find('?'), target.size());
  path = target.substr(0, mark);
  std::string_view rest = std::string_view(target).substr(std::min(mark + 1, target.size()));
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    const size_t equals = std::min(pair.find('='), pair.size());
    query[unescape(pair.substr(0, equals))] =
        unescape(pair.substr(std::min(equals + 1, pair.size())));
  }
}

}  // namespace plimsoll
