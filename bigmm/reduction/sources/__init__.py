"""From what a user passes as data to an ordered plan of chunks."""

from bigmm.reduction.sources.kinds import kind_of
from bigmm.reduction.sources.plan import Chunk, Plan, plan_data

__all__ = ["Chunk", "Plan", "kind_of", "plan_data"]
