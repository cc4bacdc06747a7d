"""SGLang's sglang.srt.eplb.eplb_algorithms with the same arguments, shapes, types and answers."""

import numpy

from plimsoll import _native
from plimsoll._arrays import integers, plain, slots_of_experts
from plimsoll.planning import plan


def rebalance_experts(
    tokens_per_expert,
    num_physical_experts,
    num_local_physical_experts,
    num_groups,
    num_nodes,
    algorithm,
    active_ranks=None,
):
    """Copies of the hot experts, and places for all of them.

    tokens_per_expert: [steps, layers, num_logical_experts], whole numbers; a torch tensor, a numpy
        array or nested lists.
    num_physical_experts: slots for experts, a multiple of num_local_physical_experts, those of a
        rank.
    num_groups: expert groups of the model, or None.
    algorithm: one of SGLang's EplbAlgorithm, or its name; or plimsoll or plimsoll_hierarchical, whose
        plans count on tokens being split over the copies of an expert as route does.
    active_ranks: [ranks], 0 for a dead one; for elasticity_aware, which in SGLang looks them up
        itself. None: all are alive.

    Returns, as torch tensors on the CPU where tokens_per_expert was one, else as numpy arrays:
        physical_to_logical_map [layers, num_physical_experts]
        logical_to_physical_map [layers, num_logical_experts, X], -1 where an expert has fewer copies;
            X is the most copies of any expert, with deepseek_vec all that one could have
        logical_count [layers, num_logical_experts], copies of every expert

    Raises ValueError, saying why, on sizes that do not fit each other and on negative loads.
    """
    steps, like_tokens = plain(tokens_per_expert)
    steps = integers(steps, numpy.int64, 3)
    algorithm = getattr(algorithm, "name", algorithm)
    if num_local_physical_experts < 1 or num_physical_experts % num_local_physical_experts != 0:
        raise ValueError(
            f"num_physical_experts ({num_physical_experts}) must be a multiple of "
            f"num_local_physical_experts ({num_local_physical_experts})"
        )
    num_ranks = num_physical_experts // num_local_physical_experts
    num_groups = num_groups or 0
    sizes = _native.EplbSizes(steps, 3, num_physical_experts, num_groups, num_nodes, num_ranks)
    is_hierarchical = algorithm.endswith("_hierarchical")
    # SGLang's deepseek_vec answers in int32, save for what it looked up by an int64 permutation.
    types = (numpy.int64,) * 3
    num_redundant = num_physical_experts - steps.shape[2]
    most_copies = None
    if algorithm.startswith("deepseek_vec"):
        answer = _native.eplb_deepseek_vec(sizes, steps, is_hierarchical)
        types = (numpy.int64 if is_hierarchical else numpy.int32, numpy.int32, numpy.int32)
        most_copies = num_redundant + 1
    elif algorithm.startswith("deepseek"):
        answer = _native.eplb_deepseek(sizes, _total(steps), is_hierarchical)
    elif algorithm.startswith("elasticity_aware"):
        alive = [1] * num_ranks if active_ranks is None else list(map(int, active_ranks))
        answer = _native.eplb_elasticity_aware(sizes, _total(steps), is_hierarchical, alive)
    else:
        planned = plan(
            steps,
            num_ranks,
            num_redundant,
            algorithm=algorithm,
            num_groups=num_groups,
            num_nodes=num_nodes,
        )
        answer = _counted(planned.physical_to_logical.astype(numpy.int64), steps.shape[2])
    physical_to_logical, replica, count = answer
    slots = slots_of_experts(
        physical_to_logical, replica, (*count.shape, most_copies or count.max())
    )
    return tuple(
        like_tokens(array.astype(dtype, copy=False))
        for array, dtype in zip((physical_to_logical, slots, count), types)
    )


def compute_algorithm(raw_algorithm, num_groups, num_nodes):
    """The name of the algorithm that raw_algorithm, perhaps "auto", stands for."""
    if raw_algorithm != "auto":
        return raw_algorithm
    divides = num_groups is not None and num_groups % num_nodes == 0
    return "deepseek_hierarchical" if divides else "deepseek"


def _total(steps):
    return steps.sum(axis=0).astype(numpy.float32)


def _counted(physical_to_logical, num_experts):
    """physical_to_logical, which copy of its expert every slot holds, and how many there are."""
    layers = numpy.arange(len(physical_to_logical))
    replica = numpy.empty_like(physical_to_logical)
    count = numpy.zeros((len(layers), num_experts), dtype=numpy.int64)
    for slot, experts in enumerate(physical_to_logical.T):
        replica[:, slot] = count[layers, experts]
        count[layers, experts] += 1
    return physical_to_logical, replica, count
