"""Recordings, placements and traces. Hostile files are refused: nothing in them is executed."""

import os

import numpy

from plimsoll import _native
from plimsoll._arrays import integers, paths


def read_load(path_or_paths, allow_missing_ranks=False):
    """Counts int64 [steps, layers, experts] of recordings, .npy, JSON or traces.

    Several recordings of the modes per_pass and per_token are those of the ranks of one; where ranks
    or passes are missing they are refused, unless allow_missing_ranks. The steps of several other
    files follow each other.
    """
    return _native.read_load(paths(path_or_paths), allow_missing_ranks)


def read_recording(path):
    """A Recording: everything that an expert distribution recorder's .pt file holds."""
    return _native.read_recording(os.fspath(path))


def write_recording(path, recording):
    """Writes a Recording, or counts [passes, layers, experts] as one of the mode stat, as .pt."""
    if isinstance(recording, _native.Recording):
        _native.write_recording(os.fspath(path), recording)
    else:
        _native.write_counts(os.fspath(path), integers(recording, numpy.int64, 3))


def read_placement(path):
    """physical_to_logical int32 [layers, slots] of .json, .pt, .yaml (TensorRT-LLM's) or .npy."""
    return _native.read_placement(os.fspath(path))


def read_layer_ids(path):
    """The model's layer of every row of a placement's file; 0, 1, ... where it does not say."""
    return _native.read_layer_ids(os.fspath(path))


def write_placement(
    path, physical_to_logical, first_layer=0, layer_ids=None, format="", num_ranks=1
):
    """Writes [layers, slots] in the format that the path ends in: .json, .pt, .yaml or .npy.

    layer_ids: the model's layer of every row, which only .yaml says; None counts from first_layer.
    format: "vllm" or "vllm-ascend" where .json is not to be SGLang's; the last needs num_ranks.
    """
    ids = integers(physical_to_logical, numpy.int32, 2)
    if layer_ids is None:
        layer_ids = range(first_layer, first_layer + len(ids))
    _native.write_placement(os.fspath(path), ids, list(layer_ids), format, num_ranks)


def read_trace(path_or_paths):
    """Expert ids int16 [tokens, layers, k], -1 for none, of .u8, .npy or per_token recordings."""
    return _native.read_trace(paths(path_or_paths))


def write_trace(path, ids, num_experts, model=""):
    """Writes ids [tokens, layers, k] below num_experts (256 at most) as NAME.u8 and NAME.json."""
    _native.write_trace(os.fspath(path), integers(ids, numpy.int16, 3), num_experts, model)
