"""What is to be scored: models, sources, targets, and what is left of them."""
