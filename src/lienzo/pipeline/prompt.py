"""From a prompt to what the U-Net attends to."""

import torch
from torch import Tensor

from lienzo.models.bundle import Bundle


@torch.no_grad()
def encode_prompt(bundle: Bundle, text: str, clip_skip: int = 0) -> tuple[Tensor, str]:
    """Encode one prompt, always alone: in a batch, the same prompt would differ in its last bits.

    Returns:
        The encoding (1, L, D) in the text encoder's dtype, and the text that did not fit, "" as a rule.

    Raises:
        ConfigError: clip_skip is more than the text encoder has.
    """
    tokens = bundle.tokenizer.encode(text)
    device = next(bundle.text_encoder.parameters()).device
    ids = torch.tensor([tokens.ids], dtype=torch.int64, device=device)
    return bundle.text_encoder(ids, clip_skip), tokens.dropped
