"""Tasks of lm-evaluation-harness as cells: found, counted, read as rows and aligned."""
