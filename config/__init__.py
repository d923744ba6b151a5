"""Settings, their YAML file, and the part of the grid that a command is about."""
