// A server for tests that says to every client what it was told to say, however odd.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>

namespace plimsoll {

class ScriptedServer {
 public:
  // `answer` turns a request's bytes (head and body) into those of the answer, after which the
  // connection is closed. One client at a time.
  explicit ScriptedServer(std::function<std::string(const std::string& request)> answer)
      : fd_(::socket(AF_INET, SOCK_STREAM, 0)), answer_(std::move(answer)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(fd_, reinterpret_cast<sockaddr*>(&address), size);
    ::listen(fd_, 64);
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ScriptedServer(const ScriptedServer&) = delete;
  ~ScriptedServer() {
    ::shutdown(fd_, SHUT_RDWR);  // wakes accept()
    thread_.join();
    ::close(fd_);
  }

  int port() const { return port_; }

 private:
  void serve() {
    for (int client; (client = ::accept(fd_, nullptr, nullptr)) >= 0;) {
      const std::string bytes = answer_(read_request(client));
      ::send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      ::close(client);
    }
  }

  static std::string read_request(int client) {
    std::string request;
    char bytes[4096];
    while (!is_whole(request)) {
      const ssize_t n = ::recv(client, bytes, sizeof bytes, 0);
      if (n <= 0) break;
      request.append(bytes, static_cast<size_t>(n));
    }
    return request;
  }

  static bool is_whole(const std::string& request) {
    const size_t head = request.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    const std::string name = "Content-Length: ";
    const size_t at = request.find(name);
    const size_t length = at < head ? std::stoul(request.substr(at + name.size())) : 0;
    return request.size() >= head + 4 + length;
  }

  int fd_;
  int port_ = 0;
  std::function<std::string(const std::string&)> answer_;
  std::thread thread_;
};

}  // namespace plimsoll
