"""From text to steps: tokens, the tree of prefixes, packed steps. No torch, no vLLM."""
