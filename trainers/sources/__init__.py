"""Merges: adapters that are made of others."""
