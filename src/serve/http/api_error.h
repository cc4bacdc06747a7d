// Errors in the words of OpenAI's API.
#pragma once

#include <string>

namespace plimsoll {

// The body of an answer with this status: {"error": {"message", "type", "param", "code"}}.
std::string api_error_body(int status, const std::string& message);

}  // namespace plimsoll
