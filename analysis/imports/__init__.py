"""Results from elsewhere, read into a run folder."""
