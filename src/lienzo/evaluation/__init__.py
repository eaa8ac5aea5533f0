"""Scores of pictures: how good, how true to their prompts, how various, and how sure one can be of it."""
