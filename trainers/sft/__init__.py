"""One adapter's training with TRL: trainer, loss, batches, fused LoRA."""
