"""Bundled items, four tasks in eleven languages; written for this project."""
