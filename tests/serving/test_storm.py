"""A short one of scripts/serve-storm."""

import os
import subprocess
import unittest

from server import ROOT


class Storm(unittest.TestCase):
    def test_leaves_nothing_behind(self):
        command = [ROOT / "scripts/serve-storm", "400", "--slow-clients", "0", "--binary", os.environ["PLIMSOLL_COMMAND"]]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertIn("0 failures", run.stdout)


if __name__ == "__main__":
    unittest.main()
