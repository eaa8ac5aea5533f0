"""The networks, one a file. Their state-dict keys are those of the published checkpoints (diffusers, transformers)."""
