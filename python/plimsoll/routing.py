"""Which copy of each routed expert, and which rank's shared expert, serves each token of a batch."""

import numpy

from plimsoll import _native
from plimsoll._arrays import integers


class Router:
    """Routes batches of one layer. One at a time: give every thread a router of its own."""

    def __init__(
        self,
        physical_to_logical,
        num_ranks,
        num_experts,
        *,
        algorithm="exact",
        waterfill=False,
        num_shared_experts=1,
        shared_cost=(1, 1),
        seed=0,
        objective="tokens",
        ns_per_expert=0,
        ns_per_token=1,
        rank_cost=(),
    ):
        """
        physical_to_logical: [slots], of the layer.
        algorithm: exact, static (the nearest copy) or dynamic (a random one, by seed).
        waterfill: shared experts may run on any rank, not just at home: True levels the ranks;
            "sglang" and "sglang_global" draw by SGLang's published rule, from the counts of a
            token's own rank or of all (see enter_shared_ranks).
        shared_cost: of a shared expert in units of a routed one, as numerator and denominator.
        objective: what the fullest rank is the fullest of: tokens, experts (at work) or time
            (ns_per_expert and ns_per_token).
        rank_cost: [num_ranks], how long each takes over a unit of load, relative to the others; 0:
            it is masked out. Empty: all alike.
        """
        options = _native.RouteOptions(
            algorithm,
            bool(waterfill),
            waterfill if isinstance(waterfill, str) else "level",
            num_shared_experts,
            shared_cost,
            seed,
            objective,
            ns_per_expert,
            ns_per_token,
            list(rank_cost),
        )
        layer = integers(physical_to_logical, numpy.int32, 1)[None]
        self._native = _native.Router(layer, num_experts, num_ranks, options)

    def route(self, counts, active_tokens):
        """Quotas with the smallest possible fullest rank, and for that the fewest messages.

        counts: [ranks, experts], how often the tokens of a source rank chose an expert.
        active_tokens: [ranks], tokens of a source that need the shared expert.
        """
        return self._native.route(
            integers(counts, numpy.int32, 2), integers(active_tokens, numpy.int32, 1)
        )

    def assign(self, routing, source, topk_ids):
        """Deals the quotas of a source rank out to its tokens.

        topk_ids: [tokens, k], logical, -1 for none; those that were counted.
        Returns the slot of each choice [tokens, k], and the rank of each shared expert
        [tokens, num_shared_experts], -1 for a token without any expert.
        """
        return self._native.assign(routing, source, integers(topk_ids, numpy.int32, 2))

    def enter_shared_ranks(self, routing, source, shared_ranks):
        """Enters what assign drew for a source rank by SGLang's waterfill into the routing.

        Only the tokens know it: until then routing counts their shared experts at home.
        """
        self._native.enter_shared_ranks(
            routing, source, integers(numpy.ravel(shared_ranks), numpy.int32, 1)
        )


def route(counts, active_tokens, physical_to_logical, **options):
    """Routes one batch of one layer; the options are Router's. For many batches, keep a Router."""
    counts = integers(counts, numpy.int32, 2)
    router = Router(physical_to_logical, *counts.shape, **options)
    return router.route(counts, active_tokens)
