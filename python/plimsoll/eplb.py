"""DeepSeek's EPLB (github.com/deepseek-ai/EPLB) with the same names, shapes and answers."""

import numpy

from plimsoll import _native
from plimsoll._arrays import plain, slots_of_experts


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Copies of the hot experts, and places for all of them.

    weight: [layers, num_logical_experts], the load of every expert; a torch tensor, a numpy array or
        nested lists, of any number type.
    num_replicas: slots for experts, a multiple of num_gpus.
    num_groups: expert groups; where num_nodes divides them, a group's experts stay within a node.

    Returns three int64 arrays, torch tensors on the CPU where weight was one:
        physical_to_logical_map [layers, num_replicas], the expert in every slot
        logical_to_physical_map [layers, num_logical_experts, most copies of any], the slots of
            every expert, -1 where it has fewer copies
        expert_count [layers, num_logical_experts], copies of every expert

    Raises ValueError, saying why, on sizes that do not divide and on loads that are negative or not
    finite.
    """
    load, like_weight = plain(weight)
    load = numpy.ascontiguousarray(load, dtype=numpy.float32)
    if num_nodes < 1:
        raise ValueError("num_nodes must be at least 1")
    sizes = _native.EplbSizes(load, 2, num_replicas, num_groups, num_nodes, num_gpus)
    physical_to_logical, replica, count = _native.eplb_deepseek(
        sizes, load, num_groups % num_nodes == 0
    )
    logical_to_physical = slots_of_experts(
        physical_to_logical, replica, (*count.shape, count.max())
    )
    return tuple(map(like_weight, (physical_to_logical, logical_to_physical, count)))
