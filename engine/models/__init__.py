"""Base models: where they are, what they hold, their tokenizer and device."""
