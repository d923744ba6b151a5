"""Commands that share results with other tools."""
