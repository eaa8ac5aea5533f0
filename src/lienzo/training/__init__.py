"""A small trainer: pure step functions, randomness that depends on (seed, step) only, atomic checkpoints."""
