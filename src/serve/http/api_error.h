// Errors in the words of OpenAI's API.
#pragma once

#include <functional>
#include <string>

#include "serve/http/http_server.h"

namespace plimsoll {

// The body of an answer with this status: {"error": {"message", "type", "param", "code"}}.
std::string api_error_body(int status, const std::string& message);

// Runs what answers a request. What it throws, such as for want of memory, is answered 500 and
// logged, and ends nothing else. `log` may be empty.
void answer_or_500(HttpReply& reply,
                   const std::function<void(const std::string&)>& log,
                   const std::function<void()>& action);

}  // namespace plimsoll
