#include "comm/kv_door.h"

#include <boost/asio.hpp>
#include <cstring>
#include <deque>
#include <thread>
#include <unordered_map>

#include "comm/deployment_key.h"

namespace plimsoll {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr size_t kMagicBytes = 8;
constexpr size_t kNonceBytes = 32;
constexpr uint32_t kMaxAddressBytes = 64 * 1024;
constexpr size_t kMaxStrangers = 64;  // connections without a proof; one more ends the oldest
constexpr size_t kMaxPeers = 1024;
constexpr std::chrono::seconds kMeetingTime{5};

struct Opening {
  char magic[kMagicBytes];
  std::byte nonce[kNonceBytes];
};

struct Card {
  Proof proof;
  uint64_t token = 0;
  uint32_t length = 0;
  uint32_t reserved = 0;
};

}  // namespace

class KvGuest;

struct KvDoor::Impl {
  Impl(std::string protocol,
       std::string key,
       std::vector<std::byte> address,
       KvDoorHandlers handlers)
      : protocol(std::move(protocol)),
        key(std::move(key)),
        address(std::move(address)),
        handlers(std::move(handlers)) {}

  void accept();
  void admit(tcp::socket socket);

  const std::string protocol;
  const std::string key;
  const std::vector<std::byte> address;
  const KvDoorHandlers handlers;
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::acceptor acceptor{io};
  asio::steady_timer retry{io};
  std::deque<std::weak_ptr<KvGuest>> strangers;
  std::unordered_map<int64_t, std::shared_ptr<KvGuest>> guests;  // those that have a number
  std::thread thread;
};

// One connection. On the door's thread.
class KvGuest : public std::enable_shared_from_this<KvGuest> {
 public:
  KvGuest(KvDoor::Impl& door, tcp::socket socket, bool calls)
      : door_(door), socket_(std::move(socket)), deadline_(door.io), calls_(calls) {}

  void call(const tcp::endpoint& to, int64_t peer, uint64_t token);
  void answer();
  void close();
  void lose(const std::string& why);
  bool is_open() const { return socket_.is_open(); }
  bool is_stranger() const { return peer_ == 0; }

 private:
  template <typename Action>
  auto then(const char* what, Action action) {
    return [self = shared_from_this(), what, action](error_code error, size_t = 0) {
      if (!self->is_open()) return;
      if (error) return self->lose(std::string(what) + ": " + error.message());
      action(*self);
    };
  }
  void set_deadline();
  void exchange_openings();
  void send_card();
  void read_card();
  void read_address();
  void judge();
  void stay();
  Result<Proof> proof_of(bool by_caller, const Card& card, std::span<const std::byte> address);

  KvDoor::Impl& door_;
  tcp::socket socket_;
  asio::steady_timer deadline_;
  const bool calls_;
  int64_t peer_ = 0;  // 0: none yet
  uint64_t token_ = 0;
  Opening ours_ = {};
  Opening theirs_ = {};
  Card card_;
  std::vector<std::byte> address_;
  std::vector<std::byte> outgoing_;
  std::byte unexpected_{};
};

void KvGuest::close() {
  error_code ignored;
  deadline_.cancel();
  socket_.close(ignored);
  door_.guests.erase(peer_);
}

void KvGuest::lose(const std::string& why) {
  if (!is_open()) return;
  const auto self = shared_from_this();
  close();
  if (peer_ != 0) door_.handlers.on_gone(peer_, unavailable(why));
}

void KvGuest::set_deadline() {
  deadline_.expires_after(kMeetingTime);
  deadline_.async_wait([weak = weak_from_this()](error_code cancelled) {
    const auto self = weak.lock();
    if (!cancelled && self) self->lose("the peer has not proved itself within 5 s");
  });
}

void KvGuest::call(const tcp::endpoint& to, int64_t peer, uint64_t token) {
  peer_ = peer;
  token_ = token;
  door_.guests[peer] = shared_from_this();
  set_deadline();
  error_code error;
  socket_.open(to.protocol(), error);
  socket_.async_connect(
      to, then("no connection to the peer", [](KvGuest& self) { self.exchange_openings(); }));
}

void KvGuest::answer() {
  set_deadline();
  exchange_openings();
}

void KvGuest::exchange_openings() {
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  std::memcpy(ours_.magic, door_.protocol.data(), kMagicBytes);
  if (!fill_at_random(ours_.nonce)) return lose("the system has no random bytes");
  const auto read_theirs = [](KvGuest& self) {
    asio::async_read(
        self.socket_, asio::buffer(&self.theirs_, sizeof self.theirs_),
        self.then("the peer ended the meeting", [](KvGuest& s) {
          if (std::memcmp(s.theirs_.magic, s.ours_.magic, kMagicBytes) != 0) {
            return s.lose("the peer is no Plimsoll server of this version and transfer backend");
          }
          if (s.calls_) return s.send_card();
          asio::async_write(
              s.socket_, asio::buffer(&s.ours_, sizeof s.ours_),
              s.then("the peer ended the meeting", [](KvGuest& t) { t.read_card(); }));
        }));
  };
  if (!calls_) return read_theirs(*this);
  asio::async_write(socket_, asio::buffer(&ours_, sizeof ours_),
                    then("the peer ended the meeting", read_theirs));
}

Result<Proof> KvGuest::proof_of(bool by_caller,
                                const Card& card,
                                std::span<const std::byte> address) {
  std::vector<std::byte> said;
  const auto add = [&](const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    said.insert(said.end(), bytes, bytes + size);
  };
  add(by_caller ? "caller  " : "answerer", 8);
  add(calls_ ? &ours_ : &theirs_, sizeof ours_);
  add(calls_ ? &theirs_ : &ours_, sizeof ours_);
  add(&card.token, sizeof card.token);
  add(&card.length, sizeof card.length);
  add(address.data(), address.size());
  return prove(door_.key, said);
}

void KvGuest::send_card() {
  Card card{.token = token_, .length = static_cast<uint32_t>(door_.address.size())};
  const Result<Proof> proof = proof_of(calls_, card, door_.address);
  if (!proof.ok()) return lose(proof.error().message);
  card.proof = *proof;
  outgoing_.resize(sizeof card);
  std::memcpy(outgoing_.data(), &card, sizeof card);
  outgoing_.insert(outgoing_.end(), door_.address.begin(), door_.address.end());
  asio::async_write(socket_, asio::buffer(outgoing_),
                    then("the peer ended the meeting", [](KvGuest& self) {
                      if (self.calls_) return self.read_card();
                      self.stay();
                    }));
}

void KvGuest::read_card() {
  asio::async_read(socket_, asio::buffer(&card_, sizeof card_),
                   then("the peer ended the meeting; has it the same --disaggregation-key-file?",
                        [](KvGuest& self) { self.read_address(); }));
}

void KvGuest::read_address() {
  if (card_.length == 0 || card_.length > kMaxAddressBytes) {
    return lose("the peer's UCX address has an odd length");
  }
  address_.resize(card_.length);
  asio::async_read(socket_, asio::buffer(address_),
                   then("the peer ended the meeting", [](KvGuest& self) { self.judge(); }));
}

void KvGuest::judge() {
  const Result<Proof> expected = proof_of(!calls_, card_, address_);
  if (!expected.ok() || !same_proof(*expected, card_.proof)) {
    return lose(
        "the peer has not proved that it has this deployment's key; give both the same "
        "--disaggregation-key-file");
  }
  if (!calls_) {
    if (door_.guests.size() >= kMaxPeers) return lose("there are too many peers");
    const Result<uint64_t> token = make_token();
    if (!token.ok()) return lose(token.error().message);
    token_ = *token;
    peer_ = door_.handlers.new_peer(token_);
    door_.guests[peer_] = shared_from_this();
  }
  door_.handlers.on_met(
      {.peer = peer_, .their_token = card_.token, .address = std::move(address_)});
  calls_ ? stay() : send_card();
}

// Nothing more is to come but the end.
void KvGuest::stay() {
  deadline_.cancel();
  socket_.async_read_some(asio::buffer(&unexpected_, 1),
                          then("the connection to the peer broke", [](KvGuest& self) {
                            self.lose("the peer does not keep to the protocol");
                          }));
}

void KvDoor::Impl::accept() {
  acceptor.async_accept([this](error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {  // such as for want of file descriptors
      retry.expires_after(std::chrono::milliseconds(100));
      return retry.async_wait([this](error_code cancelled) {
        if (!cancelled) accept();
      });
    }
    admit(std::move(socket));
    accept();
  });
}

void KvDoor::Impl::admit(tcp::socket socket) {
  std::erase_if(strangers, [](const auto& stranger) { return stranger.expired(); });
  if (strangers.size() >= kMaxStrangers) {
    if (const auto oldest = strangers.front().lock(); oldest && oldest->is_stranger()) {
      oldest->lose("others want to meet");
    }
    strangers.pop_front();
  }
  const auto guest = std::make_shared<KvGuest>(*this, std::move(socket), /*calls=*/false);
  strangers.push_back(guest);
  guest->answer();
}

KvDoor::KvDoor(std::string protocol,
               std::string key,
               std::vector<std::byte> address,
               KvDoorHandlers handlers)
    : impl_(std::make_shared<Impl>(
          std::move(protocol), std::move(key), std::move(address), std::move(handlers))) {
  impl_->thread = std::thread([impl = impl_] { impl->io.run(); });
}

KvDoor::~KvDoor() {
  asio::post(impl_->io, [impl = impl_] {
    error_code ignored;
    impl->acceptor.close(ignored);
    const auto guests = impl->guests;
    for (const auto& [peer, guest] : guests) guest->close();
    impl->io.stop();
  });
  impl_->thread.join();
}

Result<int> KvDoor::listen(const std::string& address, int port) {
  error_code error;
  tcp::resolver resolver(impl_->io);
  const auto found = resolver.resolve(address, std::to_string(port), error);
  tcp::acceptor& acceptor = impl_->acceptor;
  if (!error) acceptor.open(found.begin()->endpoint().protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(found.begin()->endpoint(), error);
  if (!error) acceptor.listen(128, error);
  const tcp::endpoint bound = error ? tcp::endpoint() : acceptor.local_endpoint(error);
  if (error) {
    return io_error("cannot listen for sequence states on " + address + ":" + std::to_string(port) +
                    ": " + error.message());
  }
  asio::post(impl_->io, [impl = impl_] { impl->accept(); });
  return bound.port();
}

void KvDoor::call(const std::string& address, int port, int64_t peer, uint64_t token) {
  tcp::resolver resolver(impl_->io);
  error_code error;
  const auto found = resolver.resolve(address, std::to_string(port), error);
  if (error) {
    const Error why = unavailable("no address found for " + address + ": " + error.message());
    return asio::post(impl_->io, [impl = impl_, peer, why] { impl->handlers.on_gone(peer, why); });
  }
  asio::post(impl_->io, [impl = impl_, to = found.begin()->endpoint(), peer, token] {
    std::make_shared<KvGuest>(*impl, tcp::socket(impl->io), /*calls=*/true)->call(to, peer, token);
  });
}

void KvDoor::hang_up(int64_t peer) {
  asio::post(impl_->io, [impl = impl_, peer] {
    const auto found = impl->guests.find(peer);
    if (found == impl->guests.end()) return;
    const auto guest = found->second;
    guest->close();
  });
}

Result<uint64_t> make_token() {
  uint64_t token = 0;
  if (fill_at_random(std::as_writable_bytes(std::span(&token, 1)))) return token;
  return unavailable("the system has no random bytes");
}

bool is_loopback(const std::string& address) {
  asio::io_context io;
  tcp::resolver resolver(io);
  error_code error;
  const auto found = resolver.resolve(address, "0", error);
  return !error && found.begin()->endpoint().address().is_loopback();
}

}  // namespace plimsoll
