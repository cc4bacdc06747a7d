// How the processes of a job find each other and connect.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>

#include "comm/byte_stream.h"
#include "comm/process_mesh.h"

namespace plimsoll {
namespace {

constexpr int kConnectMs = 5000;

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

// The machine's IPv4 addresses that others may reach.
std::vector<std::string> addresses() {
  std::vector<std::string> found;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return found;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    if ((i->ifa_flags & IFF_UP) == 0 || (i->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET_ADDRSTRLEN];
    const auto* address = reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
    if (inet_ntop(AF_INET, &address->sin_addr, text, sizeof text)) found.emplace_back(text);
  }
  freeifaddrs(list);
  return found;
}

// What a process tells the others before they connect.
struct Card {
  std::string host_name;
  std::vector<std::string> addresses;
  uint16_t port = 0;
  uint64_t token = 0;  // process 0's is the job's: strangers do not know it
  int64_t pid = 0;
};
template <typename Stream>
void transfer(Stream& stream, Card& card) {
  stream(card.host_name, card.addresses, card.port, card.token, card.pid);
}

// Both ends say this first.
struct Greeting {
  uint64_t token = 0;
  int64_t process = 0;
};

bool wait_for(int fd, short events, int timeout_ms) {
  pollfd waiting{.fd = fd, .events = events};
  return poll(&waiting, 1, timeout_ms) == 1;
}

bool send_greeting(int fd, const Greeting& greeting) {
  return send(fd, &greeting, sizeof greeting, MSG_NOSIGNAL) == sizeof greeting;
}

bool receive_greeting(int fd, Greeting& greeting) {
  // Whoever connects and says half of it holds nobody up.
  const timeval limit{.tv_sec = kConnectMs / 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return wait_for(fd, POLLIN, kConnectMs) &&
         recv(fd, &greeting, sizeof greeting, MSG_WAITALL) == sizeof greeting;
}

int connect_to(const std::string& address, uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, address.c_str(), &to.sin_addr);
  const int begun = connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to);
  int error = begun == 0 ? 0 : errno;
  if (error == EINPROGRESS && wait_for(fd, POLLOUT, kConnectMs)) {
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error == 0) return fd;
  close(fd);
  return -1;
}

Result<int> listen_on(bool loopback_only, int num_processes, uint16_t& port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{.sin_family = AF_INET};
  at.sin_addr.s_addr = htonl(loopback_only ? INADDR_LOOPBACK : INADDR_ANY);
  socklen_t size = sizeof at;
  auto* address = reinterpret_cast<sockaddr*>(&at);
  if (fd < 0 || bind(fd, address, size) != 0 || listen(fd, num_processes) != 0 ||
      getsockname(fd, address, &size) != 0) {
    if (fd >= 0) close(fd);
    return io_error(std::string("cannot listen for the job's other processes: ") +
                    std::strerror(errno));
  }
  port = ntohs(at.sin_port);
  return fd;
}

}  // namespace

std::string this_host() {
  std::string host;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), host);
  for (const char* space : {"/proc/self/ns/net", "/proc/self/ns/pid"}) {
    char name[64] = {};
    if (readlink(space, name, sizeof name - 1) > 0) host += std::string(" ") + name;
  }
  return host;
}

class MeshConnector {
 public:
  MeshConnector(ProcessMesh& mesh, const Bootstrap& bootstrap)
      : mesh_(mesh), bootstrap_(bootstrap) {}
  ~MeshConnector() {
    if (listener_ >= 0) close(listener_);
  }

  Status run() {
    if (Status status = meet(); !status.ok()) return status;
    for (int p = 0; p < mesh_.process(); ++p) {
      if (Status status = call(p); !status.ok()) return status;
    }
    for (int p = mesh_.process() + 1; p < mesh_.num_processes(); ++p) {
      if (Status status = answer(); !status.ok()) return status;
    }
    return ok_status();
  }

 private:
  // Exchanges hosts, then cards.
  Status meet() {
    const Result<std::vector<std::string>> hosts = bootstrap_(mesh_.options_.host);
    if (!hosts.ok()) return hosts.error();
    const bool one_host = std::ranges::all_of(
        *hosts, [&](const std::string& host) { return host == mesh_.options_.host; });
    Card card{.host_name = host_name(), .addresses = addresses(), .pid = getpid()};
    const Result<int> listener = listen_on(one_host, mesh_.num_processes(), card.port);
    if (listener.ok()) listener_ = *listener;
    card.token = uint64_t{std::random_device{}()} << 32 | std::random_device{}();
    const std::vector<std::byte> mine = to_bytes(card);
    const Result<std::vector<std::string>> all =
        bootstrap_({reinterpret_cast<const char*>(mine.data()), mine.size()});
    if (!all.ok()) return all.error();
    if (!listener.ok()) return listener.error();
    cards_.resize(mesh_.num_processes());
    for (int p = 0; p < mesh_.num_processes(); ++p) {
      if (!from_bytes(std::as_bytes(std::span((*all)[p])), cards_[p])) {
        return unavailable("process " + std::to_string(p) + " is of another build");
      }
      mesh_.peers_[p]->host = (*hosts)[p];
      mesh_.peers_[p]->name =
          "process " + std::to_string(p) + " (on host " + cards_[p].host_name + ")";
      if (!mesh_.same_host(p) || cards_[p].pid == card.pid) continue;
      mesh_.peers_[p]->pid_fd = static_cast<int>(syscall(SYS_pidfd_open, cards_[p].pid, 0));
    }
    return ok_status();
  }

  Status call(int process) {
    const Card& card = cards_[process];
    const std::vector<std::string> loopback = {"127.0.0.1"};
    const bool near = mesh_.same_host(process);
    std::string tried;
    for (const std::string& address : near ? loopback : card.addresses) {
      tried += " " + address;
      const int fd = connect_to(address, card.port);
      Greeting greeting{cards_[0].token, mesh_.process()};
      if (fd >= 0 && send_greeting(fd, greeting) && receive_greeting(fd, greeting) &&
          greeting.token == cards_[0].token && greeting.process == process) {
        return take(process, fd);
      }
      if (fd >= 0) close(fd);
    }
    return unavailable("cannot connect to " + mesh_.peers_[process]->name + " at any of:" + tried);
  }

  Status answer() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < end) {
      if (!wait_for(listener_, POLLIN, 1000)) continue;
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      Greeting greeting;
      const bool known = fd >= 0 && receive_greeting(fd, greeting) &&
                         greeting.token == cards_[0].token && greeting.process > mesh_.process() &&
                         greeting.process < mesh_.num_processes();
      if (known && send_greeting(fd, {cards_[0].token, mesh_.process()})) {
        return take(static_cast<int>(greeting.process), fd);
      }
      if (fd >= 0) close(fd);
    }
    return unavailable("not all processes of the job have connected within a minute");
  }

  Status take(int process, int fd) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    mesh_.peers_[process]->fd = fd;
    mesh_.peers_[process]->last_heard =
        std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    return ok_status();
  }

  ProcessMesh& mesh_;
  const Bootstrap& bootstrap_;
  int listener_ = -1;
  std::vector<Card> cards_;
};

Result<std::unique_ptr<ProcessMesh>> ProcessMesh::connect(const MeshOptions& options,
                                                          const Bootstrap& bootstrap) {
  auto mesh = std::unique_ptr<ProcessMesh>(new ProcessMesh(options));
  if (Status status = MeshConnector(*mesh, bootstrap).run(); !status.ok()) return status.error();
  // The thread leaves all signals to others.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  mesh->thread_ = std::thread([raw = mesh.get()] { raw->serve(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return mesh;
}

}  // namespace plimsoll
