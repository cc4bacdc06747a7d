"""What is disturbed: one server; a router with prefill and decode servers; ranks in several processes. Each names its
faults and what clients may notice of them."""
import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass

from faults.network import free_port
from faults.processes import MARK, MODEL, Server, started_here

RANK_TIMEOUT_S = 10  # the default of --rank-timeout-seconds
JOB_END_LIMIT_S = 30
EPLB = ["--ep-num-redundant-experts", "8", "--enable-waterfill", "--enable-eplb", "--eplb-rebalance-num-iterations", "5",
        "--expert-distribution-recorder-mode", "stat"]


@dataclass
class Allowed:
    """What may become of a request while a fault lasts; wrong bytes never."""
    streams: bool = False  # a stream may end with an error event
    errors: bool = False   # any request may be answered by an error with a reason
    cut: bool = False      # the connection of a request that is under way may break
    down: bool = False     # requests sent meanwhile may be refused, cut off or answered by an error
    begin: float = 0

    def permits(self, outcome):
        late = self.down and outcome.begin >= self.begin - 0.5  # not yet taken when the fault came
        return {"right": True, "broken": self.streams or late, "error": self.errors or late,
                "refused": self.down, "cut": self.cut or late}.get(outcome.kind, False)


class Deployment:
    """`entry` is whom clients ask; `rng` chooses the faults; `report` counts, logs and fails."""

    def __init__(self, name, network, binary, out, rng, report):
        self.name, self.network, self.binary, self.out, self.rng, self.report = name, network, binary, out, rng, report
        self.servers = []
        self.entry = None

    def add(self, name, *arguments, prefix=()):
        host = self.network.add_host()
        output = open(self.out / f"soak-{name.replace(' ', '-')}.log", "w", encoding="utf-8")
        server = Server(name, host, free_port(), [*prefix, self.binary, *arguments], output)
        self.servers.append(server)
        return server

    def serve(self, name, *flags):
        return self.add(name, "serve", "--model", MODEL, "--expert-distribution-recorder-dir", self.out, *flags)

    def start(self):
        for server in self.servers:
            server.start()
        self.wait_until_healthy()

    def wait_until_healthy(self):
        for server in reversed(self.servers):  # the router sees the others last
            server.wait_until_ready()

    def in_flight(self):
        left = {}
        for server in self.servers:
            left |= server.in_flight()
        return left

    def stop(self):
        """Ends every server as an operator would."""
        for server in reversed(self.servers):
            self.note_rebalancing(server)
            if (status := server.end(signal.SIGTERM)) != 0:
                self.report.fail(f"SIGTERM ended {server.name} with {status}")

    def kill(self):
        for server in self.servers:
            server.kill_if_alive()

    def note_rebalancing(self, server):
        """Adds up what the life of a server so far rebalanced: once, before its end."""
        if "--enable-eplb" not in server.command:
            return
        state = json.loads(server.ask("GET", "/expert_balance")[1])["rebalancing"]
        for key in ("rebalances", "switched_layers", "moved_experts", "failed"):
            self.report.count(self.name, "eplb", key, state[key])
        self.report.longest(self.name, "us of a pause by eplb", state["longest_pause_seconds"] * 1e6)
        if state["failed"]:
            self.report.fail(f"a rebalance failed: {state['last']}")

    # Each fault is (its name, what it allows, what to do); it is mended when that returns.
    def fault(self):
        raise NotImplementedError

    def choose(self, faults):
        """A fault by weight: {name: weight}; those that need a network that can be parted only where there is one."""
        names = [name for name in faults if self.network.parts or not name.startswith(("cut", "part"))]
        return self.rng.choices(names, [faults[name] for name in names])[0]

    def pause(self, server, seconds):
        with server.paused():
            time.sleep(seconds)

    def replace(self, server, how, seconds):
        """Ends the server and starts it again some time later."""
        self.note_rebalancing(server)
        status = server.end(how)
        if how == signal.SIGTERM and status != 0:
            self.report.fail(f"SIGTERM ended {server.name} with {status}")
        time.sleep(seconds)
        server.start()

    def cut_off(self, host, seconds):
        self.network.cut_off(host)
        try:
            time.sleep(seconds)
        finally:
            self.network.join(host)

    def part(self, one, other, seconds):
        """Two hosts, or only one of the two directions between them."""
        pairs = self.rng.choice([[(one, other), (other, one)], [(one, other)], [(other, one)]])
        with contextlib.ExitStack() as stack:
            for pair in pairs:
                self.network.part(*pair)
                stack.callback(self.network.unite, *pair)
            time.sleep(seconds)

    def short_or_long(self):
        """Seconds: shorter than anybody waits, or longer than everybody does."""
        return self.rng.choice([self.rng.uniform(0.1, 2), self.rng.uniform(8, 15)])


class OneServer(Deployment):
    def __init__(self, *args):
        super().__init__("one server", *args)
        self.entry = self.serve("one server", "--ep-size", "4", *EPLB)

    def fault(self):
        server = self.entry
        kind = self.choose({"pause": 2, "kill": 1, "end": 1, "cut off": 2, "rebalance": 1, "record": 1})
        if kind == "pause":
            seconds = self.short_or_long()
            return f"pause {seconds:.1f} s", Allowed(), lambda: self.pause(server, seconds)
        if kind == "kill":
            return kind, Allowed(down=True, cut=True), lambda: self.replace(server, signal.SIGKILL, 0.5)
        if kind == "end":
            return kind, Allowed(down=True), lambda: self.replace(server, signal.SIGTERM, 0.5)
        if kind == "cut off":
            seconds = self.short_or_long()
            return f"cut off {seconds:.1f} s", Allowed(down=True), lambda: self.cut_off(server.host, seconds)
        if kind == "rebalance":  # 400 where one is under way
            return kind, Allowed(), lambda: server.ask("POST", "/rebalance_experts")
        return kind, Allowed(), lambda: (server.ask("POST", "/dump_expert_distribution_record"),
                                         server.ask("POST", "/start_expert_distribution_record"))


class Apart(Deployment):
    """Prefill and decode servers behind a router."""

    def __init__(self, *args):
        super().__init__("prefill and decode", *args)
        both = ["--ep-size", "2", *EPLB, "--disaggregation-mode"]
        self.prefill = [self.serve(f"prefill {i}", *both, "prefill", "--disaggregation-bootstrap-port",
                                   str(free_port())) for i in (1, 2)]
        self.decode = [self.serve(f"decode {i}", *both, "decode") for i in (1, 2)]
        self.entry = self.add("router", "router", "--prefill", *[s.url() for s in self.prefill],
                              "--decode", *[s.url() for s in self.decode])

    def fault(self):
        kind = self.choose({"pause": 3, "kill": 3, "end": 2, "cut off": 3, "part": 2})
        if kind == "part":
            return self.part_two()
        server = self.rng.choice(self.servers)
        is_router = server is self.entry
        what = f"{kind} {server.name}"
        seconds = self.short_or_long()
        if kind == "pause":
            return (f"{what} {seconds:.1f} s", Allowed(streams=server in self.decode),
                    lambda: self.pause(server, seconds))
        if kind == "cut off":
            # A router that is cut off finds all servers gone.
            allowed = Allowed(streams=is_router or server in self.decode, errors=is_router, down=is_router)
            return f"{what} {seconds:.1f} s", allowed, lambda: self.cut_off(server.host, seconds)
        how = signal.SIGKILL if kind == "kill" else signal.SIGTERM
        killed = kind == "kill"
        allowed = Allowed(down=is_router, cut=is_router and killed, streams=server in self.decode and killed)
        return what, allowed, lambda: self.replace(server, how, seconds / 5)

    def part_two(self):
        one, other = self.rng.choice([(p, d) for p in self.prefill for d in self.decode] +
                                     [(self.entry, server) for server in self.servers[:4]])
        seconds = self.short_or_long()
        return (f"part {one.name} and {other.name} {seconds:.1f} s",
                Allowed(streams=one is self.entry and other in self.decode),
                lambda: self.part(one.host, other.host, seconds))


class OverMpi(Deployment):
    """Ranks in four processes, on two hosts where there are hosts. A process that is gone ends the job by design: every
    other one says who it was, and requests get errors; here it is started again."""
    NUM_PROCESSES = 4

    def __init__(self, *args):
        super().__init__("four processes", *args)
        self.entry = self.serve("four processes", "--ep-size", "4", "--ep-num-redundant-experts", "8",
                                "--enable-waterfill")
        self.hosts = [self.entry.host]
        # mpirun gives a process one second to end unless told otherwise.
        mpirun = ["mpirun", "--bind-to", "none", "-x", MARK, "--mca", "odls_base_sigkill_timeout", "3"]
        if self.network.parts:
            self.hosts.append(self.network.add_host())
            mpirun += self.over_hosts()
        else:
            mpirun += ["--oversubscribe", "-n", str(self.NUM_PROCESSES)]
        prefix = self.entry.host.prefix
        self.entry.command = [*prefix, "env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", *mpirun,
                              *self.entry.command[len(prefix):]]

    def over_hosts(self):
        agent = self.out / "soak-mpirun-agent"  # mpirun's way to another host: the last number names the namespace
        agent.write_text("#!/bin/sh\nnumber=${1##*.}\nshift\n"
                         f"exec ip netns exec {self.network.prefix}-$number sh -c \"$*\"\n")
        agent.chmod(0o755)
        each = self.NUM_PROCESSES // len(self.hosts)
        between = self.network.addresses
        return ["--host", ",".join(f"{host.address}:{each}" for host in self.hosts), "--map-by", "slot",
                "--mca", "plm_rsh_agent", agent, "--mca", "oob_tcp_if_include", between,
                "--mca", "btl_tcp_if_include", between, "--mca", "btl", "tcp,self"]

    def ranks(self):
        return started_here("OMPI_COMM_WORLD_RANK")

    def fault(self):
        kind = self.choose({"pause": 3, "kill": 3, "cut off": 2, "part": 2})
        for_good = kind == "kill" or self.rng.random() < 0.4
        seconds = self.rng.uniform(0.1, 3)
        number = self.rng.randrange(self.NUM_PROCESSES)
        host = self.rng.choice(self.hosts)
        what = {"cut off": f"cut off host {self.hosts.index(host) + 1}",
                "part": "part the hosts"}.get(kind, f"{kind} process {number}")
        hits_front = kind in ("pause", "kill") and number == 0
        cuts_front = kind == "cut off" and host is self.hosts[0]
        if for_good:
            return (what + ("" if kind == "kill" else " for good"),
                    Allowed(streams=True, errors=True, down=True, cut=hits_front or cuts_front),
                    lambda: self.end_by(self.inject(kind, number, host)))

        def for_a_while():
            with self.inject(kind, number, host):
                time.sleep(seconds)
        return f"{what} {seconds:.1f} s", Allowed(down=cuts_front), for_a_while

    @contextlib.contextmanager
    def inject(self, kind, number, host):
        with contextlib.ExitStack() as mend:
            if kind in ("pause", "kill"):
                pid = self.ranks()[str(number)]
                os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
                if kind == "pause":
                    mend.callback(self.go_on, number, pid)
            elif kind == "cut off":
                self.network.cut_off(host)
                mend.callback(self.network.join, host)
            else:
                for pair in (self.hosts, self.hosts[::-1]):
                    self.network.part(*pair)
                    mend.callback(self.network.unite, *pair)
            yield

    def go_on(self, number, pid):
        if self.ranks().get(str(number)) == pid:
            os.kill(pid, signal.SIGCONT)

    def end_by(self, injected):
        """After a fault that lasts, every process must end by itself and the job must fail."""
        begin = time.monotonic()
        with injected:
            while self.ranks() and time.monotonic() < begin + RANK_TIMEOUT_S + JOB_END_LIMIT_S:
                time.sleep(0.1)
            if left := self.ranks():
                self.report.fail(f"processes {sorted(left)} of the job have not ended")
            self.report.longest(self.name, "s until all had ended", time.monotonic() - begin)
        try:  # mpirun's own connections may have been cut
            status = self.entry.process.wait(timeout=JOB_END_LIMIT_S)
            if status == 0:
                self.report.fail("mpirun ended with 0")
        except subprocess.TimeoutExpired:
            self.report.count(self.name, "faults", "(mpirun killed, which did not end with its processes)")
        self.kill()
        self.entry.start()

    def stop(self):
        """mpirun passes the signal on, and ends with a status of its own."""
        self.entry.end(signal.SIGTERM)

    def kill(self):
        super().kill()
        for pid in self.ranks().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
