"""One adapter's training with TRL: trainer, loss, batches, fused LoRA."""

IGNORED = -100
"""Label of a token that is read but not learnt."""
