"""Request in, latents and pixels out: `generate` is the one loop that every kind of picture goes through."""
