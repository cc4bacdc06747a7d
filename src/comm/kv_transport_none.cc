// A build without UCX has no transport.
#ifndef PLIMSOLL_UCX
#include "comm/kv_transport.h"

namespace plimsoll {

Result<std::unique_ptr<KvTransport>> KvTransport::create(const KvOptions&, KvHandlers) {
  return unsupported(
      "this build has no UCX, which carries sequence states between servers; install libucx-dev "
      "and build again");
}

}  // namespace plimsoll
#endif
