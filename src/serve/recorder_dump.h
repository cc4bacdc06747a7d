// What a client hears of a recording that has just been written.
#pragma once

#include <string>
#include <vector>

#include "serve/http/http_server.h"

namespace plimsoll {

// Where the files are, and what is in them.
void send_dump_summary(HttpReply& reply, const std::vector<std::string>& paths);

// The file; where each rank wrote one, a zip of them under the names that SGLang's tools look for.
void send_dump_files(HttpReply& reply, const std::vector<std::string>& paths);

}  // namespace plimsoll
