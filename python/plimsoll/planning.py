"""From the load that traffic put on the experts to a placement, with a proof of how good it is."""

import numpy

from plimsoll import _native
from plimsoll._arrays import integers


def algorithms():
    """The values of plan's algorithm: --eplb-algorithm's."""
    return _native.algorithms()


def plan(
    load,
    num_ranks,
    num_redundant_experts=0,
    *,
    algorithm="plimsoll",
    dispatch="exact",
    num_nodes=1,
    num_groups=0,
    active_ranks=(),
    in_force=None,
    max_moved_experts=-1,
):
    """Plans a placement and certifies every layer.

    load: [layers, experts], or [steps, layers, experts] with recorded steps apart.
    dispatch: how the engine that runs the plan spreads an expert's tokens over its copies: exact; even, as
        vLLM and TensorRT-LLM do; dynamic or static, as SGLang does over num_nodes with an all-to-all backend.
    num_groups: expert groups of the model; 0: it has none.
    active_ranks: [num_ranks], 0 for a dead rank (elasticity_aware); empty: all are alive.
    in_force: [layers, slots], the placement in force, which few experts should leave.
    max_moved_experts: how many may, over all layers; -1: any number.
    """
    load = numpy.asarray(load)
    if load.ndim == 2:
        load = load[None]
    options = _native.PlanOptions()
    options.algorithm = algorithm
    options.num_ranks = num_ranks
    options.num_redundant_experts = num_redundant_experts
    options.dispatch = dispatch
    options.num_nodes = num_nodes
    options.num_groups = num_groups
    options.active_ranks = list(active_ranks)
    options.max_moved_experts = max_moved_experts
    nothing = numpy.empty((0, 0))
    in_force = integers(nothing if in_force is None else in_force, numpy.int32, 2)
    return _native.plan(integers(load, numpy.int64, 3), options, in_force)


def certify(physical_to_logical, num_ranks, load, *, dispatch="exact", num_nodes=1):
    """The certificate of every layer of a placement [layers, slots] for a load [layers, experts]."""
    return _native.certify(
        integers(physical_to_logical, numpy.int32, 2),
        num_ranks,
        integers(load, numpy.int64, 2),
        dispatch,
        num_nodes,
    )
