"""Hosts to run servers on: network namespaces of this machine joined by a bridge, where permitted, so that they can be
parted; else the loopback interface."""
import ctypes
import os
import random
import shutil
import socket
import subprocess

CLONE_NEWNET = 0x40000000
NOWHERE = "02:00:00:00:00:01"  # an Ethernet address that nobody has


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def free_port():
    """Outside the range from which the kernel takes ports of its own accord."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := random.randrange(20000, 32000)))
                return port
            except OSError:
                continue


class Loopback:
    """All hosts are this one."""
    parts = False

    def __init__(self, reason):
        self.reason = reason

    def add_host(self):
        return Host("127.0.0.1", [], None, None)

    def close(self):
        pass


class Host:
    def __init__(self, address, prefix, name, port):
        self.address = address
        self.prefix = prefix  # words before a command that is to run here
        self.name, self.port = name, port


class Namespaces:
    """The bridge and this process are in a namespace of their own, every host in another."""
    parts = True
    reason = None
    addresses = "10.78.0.0/24"

    def __init__(self):
        self.prefix = f"plimsoll{os.getpid()}"
        self.switch = self.prefix + "-switch"
        self.num_hosts = 0
        self.names = []
        try:
            self._add(self.switch)
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "addr", "add", "10.78.0.254/24", "dev", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "up")
            self._enter()
        except OSError:
            self.close()
            raise

    def _add(self, name):
        ip("netns", "add", name)
        self.names.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def _enter(self):
        """Moves this thread and those that it will start."""
        with open(f"/var/run/netns/{self.switch}", encoding="utf-8") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(f"setns: {os.strerror(ctypes.get_errno())}")

    def add_host(self):
        self.num_hosts += 1
        name, port = f"{self.prefix}-{self.num_hosts}", f"port{self.num_hosts}"
        self._add(name)
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self.switch)
        ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
        address = f"10.78.0.{self.num_hosts}"
        ip("-n", name, "addr", "add", address + "/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        return Host(address, ["ip", "netns", "exec", name], name, port)

    def cut_off(self, host):
        """Nothing reaches the host or leaves it, and nobody is told."""
        ip("-n", self.switch, "link", "set", host.port, "nomaster")

    def join(self, host):
        ip("-n", self.switch, "link", "set", host.port, "master", "bridge")

    def part(self, one, other):
        """What one sends the other goes nowhere; all else goes on."""
        ip("-n", one.name, "neigh", "replace", other.address, "lladdr", NOWHERE, "nud", "permanent", "dev", "eth0")

    def unite(self, one, other):
        ip("-n", one.name, "neigh", "del", other.address, "dev", "eth0")

    def close(self):
        for name in reversed(self.names):
            subprocess.run(["ip", "netns", "del", name], check=False)


def make_network():
    if shutil.which("ip") is None:
        return Loopback("there is no ip program (iproute2)")
    try:
        return Namespaces()
    except OSError as error:
        return Loopback(f"network namespaces with a bridge are not permitted here ({error})")
