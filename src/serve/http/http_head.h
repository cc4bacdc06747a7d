// What a request's head says, and what is wrong with it.
#pragma once

#include <boost/beast/http.hpp>
#include <optional>

#include "serve/http/http_server.h"

namespace plimsoll {

// Why a head is refused although it is HTTP: it is too large, or two readers of it could understand
// different things (RFC 9112, sections 3.2 and 6.1).
std::optional<HttpRefusal> head_fault(
    const boost::beast::http::header<true, boost::beast::http::fields>& head, size_t max_bytes);

// The request without its body.
HttpRequest request_of(const boost::beast::http::header<true, boost::beast::http::fields>& head);

}  // namespace plimsoll
