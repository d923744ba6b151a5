"""Cell to adapter: LoRA training with TRL and PEFT."""
