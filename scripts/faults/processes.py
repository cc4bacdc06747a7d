"""Servers that are started, disturbed and ended, and how they are asked."""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "demo/model"
START_LIMIT_S = 120
END_LIMIT_S = 60
ANSWER_LIMIT_S = 60  # one try of one request, faults included
MARK = "PLIMSOLL_FAULTS_OF"  # in the environment of everything that is started here
IN_FLIGHT = {"plimsoll_requests_running", "plimsoll_requests_waiting", "plimsoll_hand_overs_in_flight",
             "plimsoll_router_requests_in_flight", "plimsoll_router_server_requests"}


class Refused(Exception):
    """Nobody took the connection."""


class CutOff(Exception):
    """The connection broke before the answer was whole."""


def ask(address, port, method, path, body=None, timeout=ANSWER_LIMIT_S):
    """(status, text) of one HTTP exchange. A connection that stays mute is probed after 20 s, as a client that means
    to notice a vanished server must do itself."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError as error:
                raise Refused(f"{type(error).__name__}: {error}") from error
            for option, value in ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 5)):
                connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise CutOff(f"{type(error).__name__}: {error}") from error


class Server:
    """One process with an HTTP port, on one host; started again after every end."""

    def __init__(self, name, host, port, command, output):
        self.name, self.host, self.port = name, host, port
        self.command = [*host.prefix, *map(str, command), "--host", host.address, "--port", str(port)]
        self.output = output
        self.process = None

    def url(self):
        return f"http://{self.host.address}:{self.port}"

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.output,
                                        stderr=self.output, env=os.environ | {MARK: str(os.getpid())})

    def ask(self, method, path, body=None, timeout=ANSWER_LIMIT_S):
        return ask(self.host.address, self.port, method, path, body, timeout)

    def is_ready(self):
        """And, of a router, every server behind it."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}; see what it said")
        try:
            status, body = self.ask("GET", "/health", timeout=5)
            return status == 200 and all(server["ready"] for server in json.loads(body).get("servers", []))
        except (Refused, CutOff):
            return False

    def wait_until_ready(self):
        limit = time.monotonic() + START_LIMIT_S
        while not self.is_ready():
            if time.monotonic() > limit:
                raise RuntimeError(f"{self.name} did not become ready")
            time.sleep(0.05)

    def in_flight(self):
        """What its metrics say is still under way: empty once it is idle."""
        left = {}
        for line in self.ask("GET", "/metrics")[1].split("\n"):
            name, _, value = line.rpartition(" ")
            if name.split("{")[0] in IN_FLIGHT and float(value) != 0:
                left[f"{self.name} {name}"] = value
        return left

    def leave_within(self, request):
        """Asks for a stream and hangs up as it begins. False: the server could not be asked."""
        try:
            with socket.create_connection((self.host.address, self.port), timeout=10) as connection:
                body = json.dumps(request)
                connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                   f"{len(body)}\r\n\r\n{body}".encode())
                connection.recv(200)
                return True
        except OSError:
            return False

    def end(self, how):
        """Sends a signal that ends the process; returns its exit status."""
        self.process.send_signal(how)
        return self.process.wait(timeout=END_LIMIT_S)

    @contextlib.contextmanager
    def paused(self):
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill_if_alive(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def started_here(name):
    """{value: process id} of the processes started from here whose environment has `name`."""
    return {words[name]: pid for pid, words in environments() if name in words}


def kill_all():
    """Whatever was started from here."""
    for pid, _ in environments():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def environments():
    """(process id, environment) of the living processes started from here, at any depth."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "stat").read_text().rsplit(") ", 1)[1].startswith("Z"):
                continue
            text = (entry / "environ").read_text(errors="replace")
        except OSError:
            continue  # it has ended
        words = dict(word.split("=", 1) for word in text.split("\0") if "=" in word)
        if words.get(MARK) == str(os.getpid()):
            yield int(entry.name), words
