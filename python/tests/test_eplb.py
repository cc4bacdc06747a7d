import unittest

import numpy
import reference
from plimsoll import eplb


class RebalanceExperts(unittest.TestCase):
    def test_gives_the_reference_answers(self):
        cases = list(reference.cases())
        self.assertEqual(len(cases), 8)
        for name, sizes, load, phy2log, logcnt in cases:
            with self.subTest(name):
                answer = eplb.rebalance_experts(load, **sizes)
                self.assertTrue(all(array.dtype == numpy.int64 for array in answer))
                numpy.testing.assert_array_equal(answer[0], phy2log)
                numpy.testing.assert_array_equal(answer[2], logcnt)
                reference.check_slots_of_experts(self, *answer)

    def test_takes_lists_and_any_number_type(self):
        load = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86]]
        sizes = (16, 4, 2, 8)
        expected = eplb.rebalance_experts(load, *sizes)
        for weight in (
            numpy.array(load, numpy.float64),
            numpy.array(load, numpy.uint16),
            numpy.array(load, numpy.int64).T.copy().T,
        ):
            for array, other in zip(eplb.rebalance_experts(weight, *sizes), expected):
                numpy.testing.assert_array_equal(array, other)

    def test_refuses_what_cannot_be(self):
        with self.assertRaisesRegex(ValueError, "divide"):
            eplb.rebalance_experts([[1.0, 2.0, 3.0]], 4, 1, 1, 3)
        with self.assertRaises(ValueError):
            eplb.rebalance_experts([[1.0, float("nan")]], 4, 1, 1, 2)
        with self.assertRaisesRegex(ValueError, "dimensions"):
            eplb.rebalance_experts([1.0, 2.0], 4, 1, 1, 2)
        with self.assertRaises(ValueError):
            eplb.rebalance_experts([[1.0, 2.0]], 4, 1, 0, 2)


class WithTorch(unittest.TestCase):
    def setUp(self):
        self.torch = reference.torch_or_skip(self)

    def test_a_tensor_gives_tensors(self):
        for name, sizes, load, phy2log, logcnt in reference.cases():
            with self.subTest(name):
                answer = eplb.rebalance_experts(self.torch.tensor(load), **sizes)
                for tensor in answer:
                    self.assertIsInstance(tensor, self.torch.Tensor)
                    self.assertEqual(tensor.dtype, self.torch.int64)
                    self.assertEqual(tensor.device.type, "cpu")
                self.assertTrue(self.torch.equal(answer[0], self.torch.tensor(phy2log).long()))
                self.assertTrue(self.torch.equal(answer[2], self.torch.tensor(logcnt).long()))

    def test_half_precision_and_gradients(self):
        weight = self.torch.rand(2, 16, requires_grad=True)
        phy2log, log2phy, logcnt = eplb.rebalance_experts(weight.bfloat16(), 20, 1, 1, 4)
        self.assertEqual((phy2log.shape, logcnt.sum().item()), ((2, 20), 40))


if __name__ == "__main__":
    unittest.main()
