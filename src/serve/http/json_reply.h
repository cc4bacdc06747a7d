// Answers in JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "serve/http/http_server.h"

namespace plimsoll {

// The whole answer, with a line end behind it for those who read it in a terminal.
void send_json(HttpReply& reply, const nlohmann::ordered_json& answer, int status = 200);

}  // namespace plimsoll
