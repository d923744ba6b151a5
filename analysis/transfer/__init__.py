"""From scores to the transfer table: one row per model, source and target."""
