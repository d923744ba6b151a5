"""What is asked: items, tasks, prompt formats, sources of rows and alignment checks."""
