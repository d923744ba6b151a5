"""Every file of a run folder: where it is, how it is written, what identifies it."""
