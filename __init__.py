"""transfergrid: one LoRA adapter per (task, language) cell, scored on every cell by one vLLM engine."""

__version__ = "0.1.0"
