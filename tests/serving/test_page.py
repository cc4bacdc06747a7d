"""The live page in a real browser that can reach nothing but the server."""

import re
import shutil
import subprocess
import tempfile
import unittest

from server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@unittest.skipUnless(CHROMIUM, "chromium is not installed")
class Page(unittest.TestCase):
    def test_shows_balance_throughput_and_queue(self):
        with Server("--ep-size", "4") as server, tempfile.TemporaryDirectory() as profile:
            server.load("--num-prompts", "8", "--max-tokens", "4")
            run = subprocess.run(
                [
                    CHROMIUM,
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                    f"--user-data-dir={profile}",
                    "--virtual-time-budget=5000",
                    "--dump-dom",
                    server.url,
                ],
                capture_output=True,
                text=True,
                timeout=120,
            )
            balance = server.get("/expert_balance")
        page = re.sub(r"<script>.*?</script>", "", run.stdout, flags=re.S)
        self.assertEqual(re.findall(r"""(?:src|href)=["']?http""", run.stdout), [])
        self.assertIn("4 ranks, placement trivial, Waterfill off", page, run.stderr)
        self.assertEqual(len(re.findall(r'<td class="cell"', page)), 6 * 4)
        mean = float(re.search(r'"mean":.*?"max_over_mean":([0-9.]+)', balance).group(1))
        self.assertIn(f'<dd id="after">{mean:.3f}</dd>', page)
        for chart, num_lines in (("steps", 2), ("rates", 1), ("queue", 2)):
            lines = re.search(rf'<svg id="{chart}".*?</svg>', page, re.S).group()
            self.assertEqual(len(re.findall(r'<path d="M[0-9]', lines)), num_lines, chart)
        self.assertNotIn("NaN", page)


if __name__ == "__main__":
    unittest.main()
