"""The mathematics of diffusion: noise schedules, grids, predictions, guidance, samplers and losses. Knows no network."""
