"""Tables and summaries as they look in a terminal."""
