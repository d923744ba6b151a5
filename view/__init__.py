"""Looking at a run folder while it grows and afterwards: what is done, and a local web page over it."""
