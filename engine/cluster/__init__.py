"""Work spread over a Ray cluster: units, workers, and the driver that gives them out."""
