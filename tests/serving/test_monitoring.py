"""monitoring/ and the metrics of a running server, judged by Prometheus' own tool."""

import json
import re
import shutil
import subprocess
import unittest

from server import ROOT, Server

MONITORING = ROOT / "monitoring"
# What Prometheus makes of a histogram, and what the alert rules record.
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def documented():
    return set(re.findall(r"^\| `(plimsoll_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.M))


def named_in(text):
    return {SUFFIXES.sub("", name) for name in re.findall(r"\bplimsoll_\w+", text)}


class Names(unittest.TestCase):
    def test_queries_name_metrics_that_exist(self):
        dashboard = json.loads((MONITORING / "dashboard.json").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        self.assertGreater(len(queries), 10)
        for text in [*queries, (MONITORING / "alerts.yml").read_text()]:
            self.assertTrue(named_in(text), text)
            self.assertLessEqual(named_in(text), documented(), text)


@unittest.skipUnless(shutil.which("promtool"), "promtool (Debian: prometheus) is not installed")
class Promtool(unittest.TestCase):
    def promtool(self, *arguments, text=None):
        run = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return run.stdout + run.stderr

    def test_configuration_and_rules(self):
        self.assertIn("10 rules found", self.promtool("check", "config", MONITORING / "prometheus.yml"))
        self.promtool("test", "rules", ROOT / "tests/serving/alerts_test.yml")

    def test_metrics_of_a_server_under_load(self):
        with Server("--ep-size", "2", "--enable-waterfill", "--expert-metrics-per-layer") as server:
            server.load("--num-prompts", "8", "--max-tokens", "4")
            text = server.get("/metrics")
        self.assertIn('plimsoll_requests_total{model_name="model",reason="length"} 8', text)
        self.assertEqual(self.promtool("check", "metrics", text=text), "")


if __name__ == "__main__":
    unittest.main()
