"""LoRA folders in peft's format: where they are, whether they fit, what they do once applied."""
