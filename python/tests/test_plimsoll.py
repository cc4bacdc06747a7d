import os
import tempfile
import unittest

import numpy
import plimsoll
import reference

SOURCE = os.environ["PLIMSOLL_SOURCE_DIR"]
RECORDINGS = os.path.join(SOURCE, "testdata", "recorder-files")


def recorder_file(name):
    return os.path.join(RECORDINGS, name)


class Planning(unittest.TestCase):
    def setUp(self):
        self.load = plimsoll.read_load(recorder_file("expert_distribution_recorder_1780000000.123.pt"))

    def test_a_plan_proves_itself(self):
        plan = plimsoll.plan(self.load, 8, 8)
        self.assertEqual(plan.physical_to_logical.shape, (6, 72))
        self.assertEqual(plan.algorithm, "plimsoll")
        for layer, certificate in enumerate(plan.certificates):
            total = self.load[:, layer].sum()
            self.assertEqual(certificate.mean_load, total / 8)
            self.assertGreaterEqual(certificate.lower_bound, total / 8)
            self.assertGreaterEqual(certificate.max_load, certificate.lower_bound)
            self.assertLess(certificate.gap, 0.001)
            self.assertIn("mean", certificate.explain())
        again = plimsoll.certify(plan.physical_to_logical, 8, self.load.sum(axis=0))
        self.assertEqual([c.max_load for c in again], [c.max_load for c in plan.certificates])

    def test_the_placement_in_force_is_kept_where_it_can_be(self):
        total = self.load.sum(axis=0)
        before = plimsoll.plan(total, 8, 8).physical_to_logical
        plan = plimsoll.plan(total, 8, 8, in_force=before, max_moved_experts=0)
        self.assertEqual(plan.moved_experts, [0] * 6)
        numpy.testing.assert_array_equal(plan.physical_to_logical, before)

    def test_takes_tensors(self):
        torch = reference.torch_or_skip(self)
        plan = plimsoll.plan(torch.from_numpy(self.load).float(), 8, 8)
        self.assertIsInstance(plan.physical_to_logical, numpy.ndarray)
        self.assertEqual(plan.certificates[0].mean_load, self.load[:, 0].sum() / 8)

    def test_refusals_say_why(self):
        with self.assertRaisesRegex(ValueError, "deepseek_vec"):
            plimsoll.plan(self.load, 8, 8, algorithm="magic")
        with self.assertRaisesRegex(ValueError, "integers"):
            plimsoll.plan(self.load * 0.5, 8, 8)
        with self.assertRaisesRegex(ValueError, "dimensions"):
            plimsoll.plan([1, 2, 3], 8)
        with self.assertRaises(ValueError):
            plimsoll.plan(self.load, 7, 8)
        self.assertIn("deepseek_hierarchical", plimsoll.algorithms())


class Routing(unittest.TestCase):
    def test_a_batch_is_level_and_dealt_out(self):
        random = numpy.random.default_rng(3)
        ranks, experts, tokens, k = 4, 16, 32, 3
        placement = numpy.concatenate([numpy.arange(experts), [0, 1, 2, 3]])
        topk = numpy.array(
            [[random.permutation(experts)[:k] for _ in range(tokens)] for _ in range(ranks)]
        )
        counts = numpy.array([numpy.bincount(t.ravel(), minlength=experts) for t in topk])
        router = plimsoll.Router(placement, ranks, experts, waterfill=True)
        routing = router.route(counts, [tokens] * ranks)
        self.assertEqual(routing.max_load, routing.lower_bound)
        self.assertEqual(routing.rank_load.sum(), ranks * tokens * (k + 1))
        self.assertEqual(routing.rank_load.max(), routing.max_load)
        slots_per_rank = len(placement) // ranks
        load = numpy.zeros(ranks, int)
        for source in range(ranks):
            physical, shared = router.assign(routing, source, topk[source])
            numpy.testing.assert_array_equal(placement[physical], topk[source])
            numpy.testing.assert_array_equal(
                numpy.bincount(physical.ravel(), minlength=20), routing.routed[source]
            )
            load += numpy.bincount(physical.ravel() // slots_per_rank, minlength=ranks)
            load += numpy.bincount(shared.ravel(), minlength=ranks)
        numpy.testing.assert_array_equal(load, routing.rank_load)
        nearest = plimsoll.route(counts, [tokens] * ranks, placement, algorithm="static")
        self.assertGreaterEqual(nearest.max_load, routing.max_load)

    def test_refusals_say_why(self):
        with self.assertRaisesRegex(ValueError, "exact static dynamic"):
            plimsoll.Router([0, 1], 2, 2, algorithm="best")
        with self.assertRaisesRegex(ValueError, r"\[2, 2\]"):
            plimsoll.Router([0, 1], 2, 2).route([[1, 2, 3], [4, 5, 6]], [1, 1])
        with self.assertRaises(ValueError):
            plimsoll.Router([0, 7], 2, 2)
        with self.assertRaisesRegex(ValueError, "fit int32"):
            plimsoll.Router([0, 1], 2, 2).route([[1 << 40, 0], [0, 0]], [1, 1])
        router = plimsoll.Router([0, 1], 2, 2)
        routing = router.route([[1, 0], [0, 0]], [1, 0])
        with self.assertRaises(ValueError):
            router.assign(routing, 5, [[0]])
        with self.assertRaises(ValueError):
            router.assign(routing, 0, [[1]])

    def test_sglangs_waterfill_draws_for_every_token(self):
        counts, tokens = [[100, 0], [0, 0]], [[0]] * 100
        for waterfill in ("sglang", "sglang_global"):
            router = plimsoll.Router([0, 1], 2, 2, waterfill=waterfill)
            routing = router.route(counts, [100, 0])
            self.assertEqual(routing.max_load, 200)
            _, shared = router.assign(routing, 0, tokens)
            router.enter_shared_ranks(routing, 0, shared)
            numpy.testing.assert_array_equal(
                routing.shared[0], numpy.bincount(shared.ravel(), minlength=2)
            )
        with self.assertRaises(ValueError):
            router.enter_shared_ranks(routing, 0, shared[1:])
        with self.assertRaisesRegex(ValueError, "sglang_global"):
            plimsoll.Router([0, 1], 2, 2, waterfill="best")


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def test_recordings_come_as_arrays(self):
        recording = plimsoll.read_recording(
            recorder_file("expert_distribution_recorder_1780000002.25_0.pt")
        )
        self.assertEqual(recording.mode, "per_token")
        self.assertEqual(recording.counts.shape, (3, 6, 64))
        self.assertEqual(recording.topk_ids[1].shape, (6, 41, 8))
        chosen = recording.topk_ids[1][2]
        numpy.testing.assert_array_equal(
            numpy.bincount(chosen[chosen >= 0], minlength=64), recording.counts[1, 2]
        )
        self.assertEqual(len(recording.input_ids[1]), 41)
        self.assertIsNone(recording.info)
        plimsoll.write_recording(self.path("copy.pt"), recording)
        copy = plimsoll.read_recording(self.path("copy.pt"))
        numpy.testing.assert_array_equal(copy.counts, recording.counts)
        numpy.testing.assert_array_equal(copy.topk_ids[2], recording.topk_ids[2])

    def test_counts_are_read_back(self):
        counts = numpy.arange(1, 25).reshape(2, 3, 4)
        plimsoll.write_recording(self.path("counts.pt"), counts)
        numpy.testing.assert_array_equal(plimsoll.read_load(self.path("counts.pt")), counts)
        numpy.save(self.path("counts.npy"), counts)
        numpy.testing.assert_array_equal(plimsoll.read_load(self.path("counts.npy")), counts)

    def test_placements_are_read_back_in_every_format(self):
        placement = numpy.array([[0, 1, 2, 0], [2, 1, 0, 1]])
        for ending in ("json", "pt", "yaml", "npy"):
            plimsoll.write_placement(self.path("p." + ending), placement)
            numpy.testing.assert_array_equal(
                plimsoll.read_placement(self.path("p." + ending)), placement
            )
        numpy.testing.assert_array_equal(numpy.load(self.path("p.npy")), placement)

    def test_traces_are_read_back(self):
        trace = plimsoll.read_trace(os.path.join(SOURCE, "testdata", "traces", "demo_pgdoc.u8"))
        self.assertEqual(trace.shape, (16384, 6, 6))
        plimsoll.write_trace(self.path("t.u8"), trace[:100], 64, "a model")
        numpy.testing.assert_array_equal(plimsoll.read_trace([self.path("t.u8")]), trace[:100])

    def test_torch_reads_what_was_written(self):
        torch = reference.torch_or_skip(self)
        counts = numpy.arange(1, 25).reshape(2, 3, 4)
        plimsoll.write_recording(self.path("counts.pt"), counts)
        recording = torch.load(self.path("counts.pt"), weights_only=True)
        self.assertEqual(recording["logical_count"].tolist(), counts.tolist())
        plimsoll.write_placement(self.path("p.pt"), [[0, 1, 2, 0]])
        placement = torch.load(self.path("p.pt"), weights_only=True)
        self.assertEqual(placement["physical_to_logical_map"].tolist(), [[0, 1, 2, 0]])

    def test_bad_files_are_refused(self):
        with self.assertRaisesRegex(ValueError, "nothing was executed"):
            plimsoll.read_recording(recorder_file("malicious.pt"))
        with self.assertRaises(OSError):
            plimsoll.read_recording(self.path("none.pt"))
        with self.assertRaisesRegex(ValueError, "format"):
            plimsoll.write_placement(self.path("p.txt"), [[0, 1]])
        with self.assertRaises(ValueError):
            plimsoll.write_placement(self.path("p.json"), [[0, 2]])


if __name__ == "__main__":
    unittest.main()
