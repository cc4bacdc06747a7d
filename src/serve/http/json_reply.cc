#include "serve/http/json_reply.h"

#include "record/formats/json_text.h"

namespace plimsoll {

void send_json(HttpReply& reply, const nlohmann::ordered_json& answer, int status) {
  reply.send(status, "application/json", json_text(answer) + "\n");
}

}  // namespace plimsoll
