"""What callers may pass for an array of integers."""

import os

import numpy


def integers(values, dtype, num_dims):
    """Contiguous and of that type; fails on fractions, on what does not fit, and on other shapes."""
    array = numpy.asarray(values)
    if array.ndim != num_dims:
        raise ValueError(f"expected an array of {num_dims} dimensions; found shape {array.shape}")
    if array.size == 0:
        return numpy.ascontiguousarray(array, dtype=dtype)
    if array.dtype.kind not in "iub":
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
