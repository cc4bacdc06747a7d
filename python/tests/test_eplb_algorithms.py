import enum
import unittest

import numpy
import reference
from plimsoll import eplb, eplb_algorithms

EplbAlgorithm = enum.Enum("EplbAlgorithm", ["deepseek", "deepseek_vec"])  # as SGLang has it


class RebalanceExperts(unittest.TestCase):
    def test_deepseek_is_eplb_of_the_summed_steps(self):
        for name, sizes, load, phy2log, logcnt in reference.cases():
            slots, groups, nodes = (sizes[k] for k in ("num_replicas", "num_groups", "num_nodes"))
            half = load // 2
            algorithm = eplb_algorithms.compute_algorithm("auto", groups, nodes)
            with self.subTest(name):
                answer = eplb_algorithms.rebalance_experts(
                    numpy.stack([half, load - half]), slots, slots // sizes["num_gpus"], groups,
                    nodes, algorithm,
                )
                for array, other in zip(answer, eplb.rebalance_experts(load, **sizes)):
                    numpy.testing.assert_array_equal(array, other)
                    self.assertEqual(array.dtype, other.dtype)

    def test_deepseek_vec_gives_the_reference_answers(self):
        tensors = reference.read_answers("vec_answers.safetensors")
        answer = eplb_algorithms.rebalance_experts(
            tensors["steps"], 288, 9, None, 1, EplbAlgorithm.deepseek_vec
        )
        numpy.testing.assert_array_equal(answer[0], tensors["phy2log"])
        numpy.testing.assert_array_equal(answer[2], tensors["logcnt"])
        self.assertEqual(answer[1].shape, (58, 256, 33))
        self.assertTrue(all(array.dtype == numpy.int32 for array in answer))
        reference.check_slots_of_experts(self, *answer)

    def test_dead_ranks_hold_nothing(self):
        load = numpy.arange(1, 25).reshape(1, 2, 12)
        answer = eplb_algorithms.rebalance_experts(
            load, 20, 5, None, 1, "elasticity_aware", active_ranks=[1, 0, 1, 1]
        )
        alive = eplb.rebalance_experts(load[0], 15, 1, 1, 3)
        numpy.testing.assert_array_equal(answer[0][:, 5:10], 0)
        numpy.testing.assert_array_equal(numpy.delete(answer[0], range(5, 10), 1), alive[0])
        shifted = numpy.where(alive[1] >= 5, alive[1] + 5, alive[1])
        numpy.testing.assert_array_equal(answer[1], shifted)
        numpy.testing.assert_array_equal(answer[2], alive[2])

    def test_our_own_plans_come_in_the_same_shapes(self):
        load = numpy.random.default_rng(2).integers(1, 1000, (3, 2, 16))
        answer = eplb_algorithms.rebalance_experts(load, 20, 5, None, 1, "plimsoll")
        self.assertEqual(answer[0].shape, (2, 20))
        self.assertTrue((answer[2].sum(axis=1) == 20).all())
        reference.check_slots_of_experts(self, *answer)

    def test_refuses_what_cannot_be(self):
        load = numpy.ones((1, 2, 16), int)
        with self.assertRaisesRegex(ValueError, "multiple of num_local"):
            eplb_algorithms.rebalance_experts(load, 20, 3, None, 1, "deepseek")
        with self.assertRaisesRegex(ValueError, "groups"):
            eplb_algorithms.rebalance_experts(load, 20, 5, None, 2, "deepseek_hierarchical")
        with self.assertRaisesRegex(ValueError, "unknown algorithm"):
            eplb_algorithms.rebalance_experts(load, 20, 5, None, 1, "best")

    def test_tensors_give_tensors(self):
        torch = reference.torch_or_skip(self)
        load = torch.randint(1, 1000, (3, 2, 16))
        for algorithm in ("deepseek", "deepseek_vec", "plimsoll"):
            answer = eplb_algorithms.rebalance_experts(load, 20, 5, 4, 2, algorithm)
            expected = eplb_algorithms.rebalance_experts(load.numpy(), 20, 5, 4, 2, algorithm)
            for tensor, array in zip(answer, expected):
                self.assertTrue(torch.equal(tensor, torch.from_numpy(array)))


if __name__ == "__main__":
    unittest.main()
