"""Adapters x items to log-likelihoods, on vLLM."""
