"""lm-evaluation-harness on our engine: its tasks, its requests, its results files."""
