"""What may be asked for and shown: a policy for prompts, checks of pictures, a label for scenario pictures.

Two questions are asked, `check_prompt` before a picture is made and `check_picture` after it. Both answer with an `Outcome`, and
both fail closed: a check that cannot be made is an error, never a pass. Nothing here loads a network but `load`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lienzo.safety.checks import PictureCheck, PromptCheck, check_picture, check_prompt, require
from lienzo.safety.outcome import Outcome, Score, Status, combine
from lienzo.safety.policy import Match, Policy, Rule, load_policy

if TYPE_CHECKING:
    from lienzo.safety.checker import SafetyChecker

__all__ = [
    "Match",
    "Outcome",
    "PictureCheck",
    "Policy",
    "PromptCheck",
    "Rule",
    "Score",
    "Status",
    "check_picture",
    "check_prompt",
    "combine",
    "load",
    "load_policy",
    "require",
]


def load(source: str | Path, *, offline: bool | None = None) -> "SafetyChecker":
    """Stable Diffusion's checker of pictures; see `lienzo.safety.checker.load_checker`, which has more settings."""
    from lienzo.safety.checker import load_checker  # only now: it brings torch

    return load_checker(source, offline=offline)
