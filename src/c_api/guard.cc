#include "c_api/guard.h"

#include <cstdio>
#include <string>

namespace plimsoll::c_api {
namespace {

// Of a fixed size, so that even running out of memory can be told.
thread_local char last_message[2048] = "";

plimsoll_code code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kCorruptFile:
      return PLIMSOLL_CORRUPT_FILE;
    case ErrorCode::kUnsupported:
      return PLIMSOLL_UNSUPPORTED;
    case ErrorCode::kIo:
      return PLIMSOLL_IO;
    case ErrorCode::kUnavailable:
      return PLIMSOLL_UNAVAILABLE;
    case ErrorCode::kInvalidArgument:
      break;
  }
  return PLIMSOLL_INVALID_ARGUMENT;
}

}  // namespace

plimsoll_code fail(plimsoll_code code, const char* message) noexcept {
  std::snprintf(last_message, sizeof(last_message), "%s", message);
  return code;
}

plimsoll_code code_of(const Status& status) noexcept {
  if (status.ok()) return PLIMSOLL_OK;
  return fail(code_of(status.error().code), status.error().message.c_str());
}

Status check_there(std::initializer_list<Needed> arguments) {
  for (const Needed& argument : arguments) {
    if (!argument.pointer) {
      return invalid_argument(std::string("the argument ") + argument.name + " must not be NULL");
    }
  }
  return ok_status();
}

Result<size_t> num_elements(std::initializer_list<int32_t> sizes) {
  size_t product = 1;
  for (const int32_t size : sizes) {
    if (size < 1 || product > PTRDIFF_MAX / sizeof(int64_t) / static_cast<size_t>(size)) {
      return invalid_argument("an array of size " + std::to_string(size) +
                              " in one dimension cannot be; sizes are positive and their product "
                              "fits memory");
    }
    product *= static_cast<size_t>(size);
  }
  return product;
}

}  // namespace plimsoll::c_api

const char* plimsoll_error_message(void) {
  return plimsoll::c_api::last_message;
}

const char* plimsoll_version(void) {
  return PLIMSOLL_VERSION;
}
