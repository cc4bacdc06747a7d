"""Clients that only hold a connection, or do not read, against a running server."""

import json
import re
import resource
import socket
import time
import unittest

from server import Server

NUM_IDLE = 1000


def port_of(server):
    return int(server.url.rsplit(":", 1)[1])


def post(body):
    text = json.dumps(body)
    return (f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(text)}\r\n\r\n{text}").encode()


class IdleConnections(unittest.TestCase):
    def hold_idle(self, server):
        idle = []
        self.addCleanup(lambda: [connection.close() for connection in idle])
        for _ in range(NUM_IDLE):
            idle.append(socket.create_connection(("127.0.0.1", port_of(server)), timeout=60))
        return idle

    def with_open_files(self, soft, hard):
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        return Server("--ep-size", "2", preexec_fn=limit)

    def setUp(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 2 * NUM_IDLE:
            self.skipTest(f"no process may open {2 * NUM_IDLE} files here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * NUM_IDLE), hard))

    def test_a_thousand_do_not_stop_new_ones(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with self.with_open_files(256, hard) as server:
            idle = self.hold_idle(server)
            self.assertIn('"status":"ok"', server.get("/health_generate"))
            for connection in (idle[0], idle[-1]):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertIn(b"200 OK", connection.recv(1000))

    def test_nor_do_more_than_the_process_may_open(self):
        with self.with_open_files(256, 256) as server:
            idle = self.hold_idle(server)
            self.assertIn('"status":"ok"', server.get("/health_generate"))
            self.assertEqual(idle[0].recv(1), b"", "the idlest was closed")


class SlowReader(unittest.TestCase):
    def test_slows_nobody_and_loses_nothing(self):
        with Server("--ep-size", "2") as server:
            body = {"prompt": "x", "max_tokens": 300, "ignore_eos": True, "logprobs": 20, "seed": 1}
            with socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) as other:
                other.sendall(post(body))
                alone = json.loads(b"".join(iter(lambda: other.recv(1 << 16), b"")).split(b"\r\n\r\n", 1)[1])
            slow = socket.socket()
            self.addCleanup(slow.close)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.settimeout(60)
            slow.connect(("127.0.0.1", port_of(server)))
            slow.sendall(post(body | {"stream": True}))
            server.load("--num-prompts", "16", "--max-tokens", "16", "--ignore-eos")
            # All that it asked for is computed while it reads nothing.
            while not re.search(r"^plimsoll_requests_running\{.*\} 0$", server.get("/metrics"), re.M):
                time.sleep(0.05)
            events = b"".join(iter(lambda: slow.recv(1 << 16), b"")).decode().split("\n\n")
            self.assertEqual(events[-2:], ["data: [DONE]", ""])
            choices = [json.loads(event[event.index("{"):])["choices"][0] for event in events[:-2]]
            self.assertEqual("".join(choice["text"] for choice in choices), alone["choices"][0]["text"])


if __name__ == "__main__":
    unittest.main()
