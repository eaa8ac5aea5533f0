"""Stable Diffusion's safety checker: CLIP's image side, and how near its vector comes to those of unwanted concepts.

It is the checker that CompVis published with Stable Diffusion 1.4, as diffusers computes it (StableDiffusionSafetyChecker). Its
concepts were published as vectors without names; arXiv:2210.04610 found out that they are about nudity and sex, that violence
and everything else is not seen, and that it is easily evaded. It is one look, not a guarantee.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from lienzo.errors import ConfigError, ModelNotFoundError, SafetyError
from lienzo.models.bundle import tensors_digest
from lienzo.models.clip_vision import ImageEncoder, Preprocessing, VisionConfig
from lienzo.safety.outcome import Outcome, Score
from lienzo.weights import hub
from lienzo.weights.clip import BASES, clip_config, preprocessing_of, without_positions
from lienzo.weights.folder import read_json, weights_file
from lienzo.weights.meta import without_memory
from lienzo.weights.model import checked
from lienzo.weights.read import read

Floats = NDArray[np.float32]
PART, EXTRACTOR = "safety_checker", "feature_extractor"
"""Folders of a diffusers model."""
CONCEPTS, SPECIAL_CARE = 17, 3
ADJUSTMENT = np.float32(0.01)
"""By how much every later limit falls once a special-care concept is seen."""


class SafetyNetwork(ImageEncoder):
    """CLIP's image side with the vectors and limits of the concepts.

    Keys are those of transformers 5; older files say `vision_model.vision_model.*`.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.concept_embeds = nn.Parameter(torch.empty(CONCEPTS, config.projection_dim))
        self.special_care_embeds = nn.Parameter(torch.empty(SPECIAL_CARE, config.projection_dim))
        self.concept_embeds_weights = nn.Parameter(torch.empty(CONCEPTS))
        self.special_care_embeds_weights = nn.Parameter(torch.empty(SPECIAL_CARE))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, image_size, image_size), see `Preprocessing` -> cosines (B, 3) and (B, 17)."""
        image = F.normalize(self.image_features(pixels))
        return tuple(image @ F.normalize(e).T for e in (self.special_care_embeds, self.concept_embeds))  # type: ignore[return-value]


def scores(special: Floats, concepts: Floats, special_limits: Floats, concept_limits: Floats) -> tuple[Floats, Floats]:
    """Scores of one picture, special-care ones (3,) and concepts (17,), of its cosines with both.

    score = round(cosine - limit + adjustment, 3) in fp32. The adjustment is 0 until a special-care score is above 0, and
    `ADJUSTMENT` for everything after that one.
    """
    adjustment, found = np.float32(0), []
    for cosine, limit in zip(special, special_limits, strict=True):
        found.append(np.round(cosine - limit + adjustment, 3))
        if found[-1] > 0:
            adjustment = ADJUSTMENT
    return np.array(found), np.round(concepts - concept_limits + adjustment, 3)


@dataclass(frozen=True, kw_only=True)
class SafetyChecker:
    """A loaded checker; a `PictureCheck`. Threads may share it.

    Attributes:
        digest: SHA-256 of the weights as they are in the file, limits included; see `lienzo.models.bundle.tensors_digest`.
        over: what becomes of a picture that scores above 0.
    """

    network: SafetyNetwork
    preprocessing: Preprocessing
    digest: str
    over: Literal["blocked", "flagged"] = "blocked"

    @torch.no_grad()
    def __call__(self, image: Image.Image, /) -> Outcome:
        """Look at a picture: at its middle square, scaled to the network's size.

        Raises:
            SafetyError: the network gave NaN or infinity, which is no answer.
        """
        device = self.network.concept_embeds.device
        cosines = self.network(self.preprocessing(image)[None].to(device))
        return self.judged(*(c[0].cpu().numpy() for c in cosines))

    def judged(self, special: Floats, concepts: Floats) -> Outcome:
        """What follows from cosines (3,) and (17,).

        Raises:
            SafetyError: one of them, or a limit, is NaN or infinite.
        """
        limits = (self.network.special_care_embeds_weights, self.network.concept_embeds_weights)
        special, concepts = scores(special, concepts, *(limit.cpu().numpy() for limit in limits))
        if not (np.isfinite(special).all() and np.isfinite(concepts).all()):
            raise SafetyError(
                "The safety checker gave NaN or infinity, which is no answer, so the picture is not returned. Its weights are "
                "damaged, or the device computes wrongly."
            )
        over = [i for i, score in enumerate(concepts) if score > 0]
        reasons = [f"The safety checker sees concept {i}: {concepts[i]:.3f} over its limit." for i in over]
        return Outcome(
            status=self.over if over else "passed",
            by=(f"checker:{self.digest}",),
            scores=(*_named("special care", special), *_named("concept", concepts)),
            reasons=tuple(reasons),
        )


def _named(title: str, found: Floats) -> list[Score]:
    return [Score(name=f"{title} {i}", value=round(float(score), 3)) for i, score in enumerate(found)]


def load_checker(
    source: str | Path,
    *,
    over: Literal["blocked", "flagged"] = "blocked",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    offline: bool | None = None,
) -> SafetyChecker:
    """Load a checker. It computes in fp32.

    Args:
        source: a folder in the layout of CompVis/stable-diffusion-safety-checker, a diffusers model that has a
            `safety_checker` folder (and how pictures are prepared in `feature_extractor`), or the hub id of either.
        over: what becomes of a picture that it objects to.
        revision, offline: of a hub id, as for `lienzo.weights.load`.

    Raises:
        WeightsError: no such checker, or tensors that are not exactly those of its configuration.
        ConfigError: a network or a way to prepare pictures that lienzo does not have.
    """
    path = hub.find(source, "The safety checker", revision=revision, offline=offline, only=_wanted)
    if not path.is_dir():
        raise ModelNotFoundError(
            f"No safety checker at {source}: no such folder. Give a folder, or a hub id such as "
            "CompVis/stable-diffusion-safety-checker."
        )
    folder = path / PART if (path / PART).is_dir() else path
    settings = read_json(folder / "config.json")
    try:
        config = clip_config(settings)
        with without_memory():
            network = SafetyNetwork(replace(config.vision, projection_dim=config.projection_dim))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None
    file = weights_file(folder, BASES, None)[0]
    checkpoint = read(file)
    own = {k.replace("vision_model.vision_model.", "vision_model."): v for k, v in checkpoint.tensors.items()}
    tensors = checked(str(file), network.state_dict(), without_positions(own))
    digest = tensors_digest(tensors)
    loaded = {key: value.to(device, torch.float32).contiguous() for key, value in tensors.items()}
    network.load_state_dict(loaded, strict=True, assign=True)
    network.eval().requires_grad_(False)
    checkpoint.forget_pages()
    prepared = folder.parent / EXTRACTOR if folder.name == PART else folder
    return SafetyChecker(
        network=network, preprocessing=preprocessing_of(prepared, config.vision.image_size), digest=digest, over=over
    )


def _wanted(names: Sequence[str]) -> list[str]:
    """Of a repository's files: a checker's, safetensors before pickles."""
    inside = f"{PART}/" if any(name.startswith(f"{PART}/") for name in names) else ""
    prepared = f"{EXTRACTOR}/" if inside else ""
    weights = next((f for f in ("model.safetensors", "pytorch_model.bin") if inside + f in names), "model.safetensors")
    return [f"{inside}config.json", f"{inside}{weights}", f"{prepared}preprocessor_config.json"]
