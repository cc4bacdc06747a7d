"""DeepSeek's EPLB (github.com/deepseek-ai/EPLB) with the same names, shapes and answers."""

import sys

import numpy

from plimsoll import _native


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
    torch = sys.modules.get("torch")
    is_torch = torch is not None and isinstance(weight, torch.Tensor)
    if is_torch:
        weight = weight.detach().float().cpu().numpy()
    load = numpy.ascontiguousarray(weight, dtype=numpy.float32)
    physical_to_logical, replica, count = _native.eplb_deepseek(
        load, num_replicas, num_groups, num_nodes, num_gpus
    )
    layers, experts = load.shape
    logical_to_physical = numpy.full((layers, experts, count.max()), -1, dtype=numpy.int64)
    logical_to_physical[numpy.arange(layers)[:, None], physical_to_logical, replica] = numpy.arange(
        num_replicas
    )
    answer = (physical_to_logical, logical_to_physical, count)
    return tuple(map(torch.from_numpy, answer)) if is_torch else answer
