#include "serve/http/http_head.h"

#include "serve/http/url.h"

namespace plimsoll {

namespace beast = boost::beast;
namespace http = beast::http;
using Head = http::header<true, http::fields>;

std::optional<HttpRefusal> head_fault(const Head& head, size_t max_bytes) {
  size_t num_bytes = head.target().size();
  for (const auto& field : head) {
    constexpr size_t kPunctuation = 4;  // ": " and the line's end
    num_bytes += field.name_string().size() + field.value().size() + kPunctuation;
  }
  if (num_bytes > max_bytes) {
    return HttpRefusal{431, "the request's head is larger than this server takes"};
  }
  if (head.count(http::field::transfer_encoding) > 0) {
    const bool is_plain = head.count(http::field::transfer_encoding) == 1 &&
                          beast::iequals(head[http::field::transfer_encoding], "chunked") &&
                          head.count(http::field::content_length) == 0 && head.version() >= 11;
    if (!is_plain) {
      return HttpRefusal{400,
                         "expected Transfer-Encoding: chunked alone, in HTTP/1.1, or a "
                         "Content-Length"};
    }
  }
  const size_t num_hosts = head.count(http::field::host);
  if (num_hosts > 1 || (num_hosts == 0 && head.version() >= 11)) {
    return HttpRefusal{400, "expected one Host field"};
  }
  if (head.count(http::field::authorization) > 1) {
    return HttpRefusal{400, "expected one Authorization field at most"};
  }
  return std::nullopt;
}

HttpRequest request_of(const Head& head) {
  HttpRequest request;
  request.method = std::string(head.method_string());
  std::string target(head.target());
  if (beast::iequals(target.substr(0, 7), "http://")) {  // as to a proxy
    const size_t path = target.find('/', 7);
    target = path == target.npos ? "/" : target.substr(path);
  }
  split_target(target, request.path, request.query);
  for (const auto& field : head) {
    std::string name(field.name_string());
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    request.headers[name] = std::string(field.value());
  }
  return request;
}

}  // namespace plimsoll
