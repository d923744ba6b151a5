"""Log-likelihoods to deltas, regimes, roles, variance, significance and reports; reads files, never a model."""
