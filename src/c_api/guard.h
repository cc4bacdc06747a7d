// From the library's errors, and from running out of memory, to codes and a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <stdexcept>

#include "plimsoll/plimsoll.h"
#include "plimsoll/result.h"

namespace plimsoll::c_api {

// Keeps the message for plimsoll_error_message.
plimsoll_code fail(plimsoll_code code, const char* message) noexcept;
plimsoll_code code_of(const Status& status) noexcept;

// Runs `body`, which returns a Status. The standard library throws where memory ends.
template <typename Body>
plimsoll_code guarded(const Body& body) noexcept {
  constexpr const char* kNoMemory = "there is not enough memory for this";
  try {
    return code_of(body());
  } catch (const std::bad_alloc&) {
    return fail(PLIMSOLL_OUT_OF_MEMORY, kNoMemory);
  } catch (const std::length_error&) {
    return fail(PLIMSOLL_OUT_OF_MEMORY, kNoMemory);
  }
}

// Fails, naming them, where pointers that must be there are not: {"load", load}, ...
struct Needed {
  const char* name;
  const void* pointer;
};
Status check_there(std::initializer_list<Needed> arguments);

// How many elements an array of these sizes has; fails where one is not positive.
Result<size_t> num_elements(std::initializer_list<int32_t> sizes);

}  // namespace plimsoll::c_api
