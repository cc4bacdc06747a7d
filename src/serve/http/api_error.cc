#include "serve/http/api_error.h"

#include <nlohmann/json.hpp>

#include "record/formats/json_text.h"

namespace plimsoll {

std::string api_error_body(int status, const std::string& message) {
  using Json = nlohmann::ordered_json;
  const char* type = status == 429   ? "rate_limit_error"
                     : status == 401 ? "authentication_error"
                     : status >= 500 ? "server_error"
                                     : "invalid_request_error";
  // A string or null: clients of typed languages read nothing else.
  const Json code = status == 429   ? Json("rate_limit_exceeded")
                    : status == 401 ? Json("invalid_api_key")
                                    : Json();
  const Json body = {
      {"error", {{"message", message}, {"type", type}, {"param", nullptr}, {"code", code}}}};
  return json_text(body);
}

void answer_or_500(HttpReply& reply,
                   const std::function<void(const std::string&)>& log,
                   const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    if (log) log(std::string("a request failed: ") + error.what());
    reply.send(500, "application/json", api_error_body(500, "the server failed at this request"));
  }
}

}  // namespace plimsoll
