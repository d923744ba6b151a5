"""What is to be scored: models, sources, targets, and what is left of them.

A *job* is one source (the base or an adapter) with the target cells it is to be scored on: ``SourceJob``, all of one
model ``ModelJobs``, all of a request ``SweepJobs``. What the store does not have yet is *remaining*: ``Remaining``.
On a cluster some jobs together are a *unit*, which one worker gets (``engine.cluster.units``).

A base model is a ``ScoredBase`` where it is found on disk with its part of the run key, and a ``ModelScorer`` once it
is in memory. A target cell is ``CellItems`` as it is asked of every model, and a ``TokenisedCell`` as one reads it.
"""
