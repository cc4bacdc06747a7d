"""The commands of docs/cookbook.md, as they stand there but for the ports, and what came of them."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(os.environ["PLIMSOLL_COMMAND"])
# Servers that still run are ended with the shell.
PROLOGUE = "set -euo pipefail\ntrap 'jobs -p | xargs -r kill 2>/dev/null' EXIT\n"


def commands(page):
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Cookbook(unittest.TestCase):
    def test_runs_as_written_and_levels_the_ranks(self):
        if not shutil.which("curl"):
            self.skipTest("curl is not installed")
        script = commands((ROOT / "docs/cookbook.md").read_text())
        self.assertEqual(script.count("plimsoll serve"), 5)
        for port in ("30000", "30001", "30002"):
            script = script.replace(port, str(free_port()))
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(ROOT / "demo", Path(folder) / "demo")
            run = subprocess.run(
                ["bash", "-c", PROLOGUE + script],
                cwd=folder,
                env={**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=200,
            )
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

            def result(name):
                return json.loads((Path(folder) / name).read_text())

            before, after = result("balance-before.json"), result("balance-after.json")
            self.assertEqual((before["waterfill"], after["waterfill"]), (False, True))
            excess = [b["mean"]["max_over_mean"] - 1 for b in (before, after)]
            self.assertLess(excess[1], excess[0] / 3, excess)
            self.assertAlmostEqual(after["mean"]["max_over_mean"], after["mean"]["bound"])
            for name in ("before.json", "after.json"):
                self.assertEqual((result(name)["completed"], result(name)["failed"]), (64, 0))
            answer = (Path(folder) / "answer-before.txt").read_text()
            self.assertGreater(len(answer), len('"text":""') + 40)
            self.assertIn('"rebalances":', run.stdout)
            for name in ("placement.pt", "placement.yaml", "prefill.json", "decode.json", "both.json"):
                self.assertTrue((Path(folder) / name).stat().st_size)


if __name__ == "__main__":
    unittest.main()
