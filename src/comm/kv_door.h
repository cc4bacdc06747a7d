// How two processes find each other before UCX connects them: over a TCP connection of our own,
// each proves that it has the deployment's key, and gives the address of its UCX worker.
//
//   caller: magic, nonce                                  magic names the protocol and its version
//   answerer: magic, nonce
//   caller: proof, token, length, address                 proof = HMAC(key, who, both nonces, the
//   rest) answerer: proof, token, length, address
//
// A stranger gets nothing but a nonce, has 5 s, and no length that he names is taken before his
// proof. The connection stays open: its end says that the peer is gone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plimsoll/result.h"

namespace plimsoll {

struct KvMeeting {
  int64_t peer = 0;
  uint64_t their_token = 0;  // goes with every message to them
  std::vector<std::byte> address;
};

struct KvDoorHandlers {  // on the door's thread
  // Who calls is met by a peer number of `new_peer` and the token that goes with it.
  std::function<int64_t(uint64_t token)> new_peer;
  // Ours goes to an answerer only after this has returned.
  std::function<void(KvMeeting meeting)> on_met;
  std::function<void(int64_t peer, const Error& why)> on_gone;
};

class KvDoor {
 public:
  // `protocol` has 8 characters; both ends need the same. `address` is our worker's. An empty key
  // proves nothing.
  KvDoor(std::string protocol,
         std::string key,
         std::vector<std::byte> address,
         KvDoorHandlers handlers);
  ~KvDoor();

  // Port 0 takes any free one; returns the port.
  Result<int> listen(const std::string& address, int port);
  // From any thread; `token` goes with every message from them.
  void call(const std::string& address, int port, int64_t peer, uint64_t token);
  void hang_up(int64_t peer);

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

// A token for the messages of one connection.
Result<uint64_t> make_token();

// Whether a numeric address or a host's name is of this machine alone.
bool is_loopback(const std::string& address);

}  // namespace plimsoll
