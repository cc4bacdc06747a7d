"""A `plimsoll serve` on a port of its own, for tests."""

import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = os.environ["PLIMSOLL_COMMAND"]


class Server:
    def __init__(self, *flags, **process):
        command = [COMMAND, "serve", "--model", ROOT / "demo/model", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **process)
        log = ""
        while not log.endswith("ready\n"):
            line = self.process.stderr.readline()
            if not line:
                raise RuntimeError(f"the server ended: {log}")
            log += line
        self.url = re.search(r"http://[0-9.:]+", log).group()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=60)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read().decode()

    def load(self, *flags):
        subprocess.run(
            [COMMAND, "bench-serving", "--base-url", self.url, "--dataset", ROOT / "demo/prompts", *flags],
            check=True,
            stdout=subprocess.DEVNULL,
        )
