"""What callers may pass for an array, and what they get back."""

import os
import sys

import numpy


def plain(values):
    """values as a numpy array, and what turns an answer into the caller's kind of array.

    Torch tensors come from any device; their answers are torch tensors on the CPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(values, torch.Tensor):
        return numpy.asarray(values), lambda array: array
    values = values.detach().cpu()
    if values.is_floating_point():
        values = values.double()  # numpy knows no bfloat16
    return values.numpy(), torch.from_numpy


def integers(values, dtype, num_dims):
    """Contiguous and of that type; fails on fractions, on what does not fit, and on other shapes."""
    array, _ = plain(values)
    if array.ndim != num_dims:
        raise ValueError(f"expected an array of {num_dims} dimensions; found shape {array.shape}")
    if array.size == 0:
        return numpy.ascontiguousarray(array, dtype=dtype)
    is_whole = array.dtype.kind in "iub" or (
        array.dtype.kind == "f" and (array == numpy.rint(array)).all()
    )
    if not is_whole:
        raise ValueError(f"expected integers; found {array.dtype}")
    limits = numpy.iinfo(dtype)
    if array.min() < limits.min or array.max() > limits.max:
        raise ValueError(f"expected numbers that fit {limits.dtype}")
    return numpy.ascontiguousarray(array, dtype=dtype)


def paths(path_or_paths):
    """One path, or several, as a list of strings."""
    if isinstance(path_or_paths, (str, os.PathLike)):
        path_or_paths = [path_or_paths]
    return [os.fspath(path) for path in path_or_paths]


def slots_of_experts(physical_to_logical, replica, shape):
    """[layers, experts, columns]: the slot of every copy, -1 where an expert has fewer.

    replica: [layers, slots], which copy of its expert a slot holds; -1: a slot out of use.
    shape: of the answer.
    """
    slots = numpy.full(shape, -1, dtype=numpy.int64)
    layer, slot = numpy.nonzero(replica >= 0)
    slots[layer, physical_to_logical[layer, slot], replica[layer, slot]] = slot
    return slots
