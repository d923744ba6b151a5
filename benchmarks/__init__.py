"""Tasks and items: prompt formats, metrics, sources of rows and alignment checks."""
