"""A model that stays loaded: the server, its guard, and the scorer that asks it."""
