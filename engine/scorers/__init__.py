"""Makers of scorers: vLLM with adapters, one merged adapter at a time, vLLM's public interface, transformers."""
