"""Plans with proofs and exact routing for expert-parallel mixture-of-experts models.

Arrays go in as numpy arrays, torch tensors on the CPU or nested lists, and come out as numpy arrays.
Sizes: layers, experts (logical), slots (physical experts), ranks; the slots of rank r are the
contiguous block r. Loads and counts are tokens. Errors are ValueError, or OSError where a file
cannot be read or written; the message says what was expected.
"""

from plimsoll import eplb, eplb_algorithms
from plimsoll._native import Certificate, Plan, Recording, Routing
from plimsoll._native import version as __version__
from plimsoll.files import (
    read_layer_ids,
    read_load,
    read_placement,
    read_recording,
    read_trace,
    write_placement,
    write_recording,
    write_trace,
)
from plimsoll.planning import algorithms, certify, plan
from plimsoll.routing import Router, route

__all__ = [
    "Certificate",
    "Plan",
    "Recording",
    "Router",
    "Routing",
    "algorithms",
    "certify",
    "eplb",
    "eplb_algorithms",
    "plan",
    "read_layer_ids",
    "read_load",
    "read_placement",
    "read_recording",
    "read_trace",
    "route",
    "write_placement",
    "write_recording",
    "write_trace",
]
