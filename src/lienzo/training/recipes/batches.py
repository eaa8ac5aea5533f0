"""From a step to its batch: pictures, latents or pictures with captions, as each kind of network learns from them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lienzo.models.bundle import tensors_digest
from lienzo.models.clip_vision import Preprocessing
from lienzo.models.vae import VAE
from lienzo.training.config import RunConfig
from lienzo.training.data import Batch, Cache, Dataset, Draw, Loader, Plan, Record, plan, wanted_latent
from lienzo.training.data.dataset import in_threads
from lienzo.training.data.pixels import mask, pixels
from lienzo.training.data.plan import centred
from lienzo.training.losses import CaptionedLatents, CaptionedPictures
from lienzo.training.recipes.words import Words
from lienzo.training.share import Share

Tell = Callable[[str, int, int], None]
"""Told (what is done, how many, of how many)."""
ENCODED_AT_ONCE = 16


class Pictures:
    """step -> pixels, read ahead by threads.

    Args:
        stack: closes the threads.
    """

    def __init__(self, dataset: Dataset, run: RunConfig, stack: ExitStack) -> None:
        self.plan = plan(dataset, run.batch_size, run.seed)
        self._accumulate, self._places = run.accumulate, (0, 1)
        config = dataset.config
        self._loader = stack.enter_context(Loader(self._draws, masks=config.masks, threads=config.threads))

    def __call__(self, share: Share) -> Batch:
        """The part of a batch that `share` names. All shares of a run have the same `count`."""
        self._places = share.index - share.index % self._accumulate, share.count
        return self._loader.batch(share.step * self._accumulate + share.index % self._accumulate)

    def _draws(self, number: int) -> Sequence[Draw]:
        """The parts that this process works through are numbered through all steps."""
        step, part = divmod(number, self._accumulate)
        first, count = self._places
        return self.plan.batch_at(step, first + part, count)


class Latents:
    """step -> latents and captions, for a denoiser.

    Args:
        vae: frozen.
        prior_weight: of class pictures.
        stack: closes the threads that read pictures.
    """

    def __init__(
        self, dataset: Dataset, vae: VAE, words: Words, run: RunConfig, stack: ExitStack, *, prior_weight: float
    ) -> None:
        self._vae, self._words, self._prior_weight = vae, words, prior_weight
        self._dataset = dataset
        config = dataset.config
        self._pictures: Pictures | None = None
        if not config.cache_latents:
            self._pictures = Pictures(dataset, run, stack)
        self._plan: Plan = plan(dataset, run.batch_size, run.seed) if self._pictures is None else self._pictures.plan

    @cached_property
    def _cache(self) -> Cache:
        """Opened when it is first asked for: a process that waits for another to fill it has to see what is in it then."""
        folder = self._dataset.config.cache
        assert folder is not None
        return latent_cache(folder, self._vae)

    def fill(self, tell: Tell, held_out: Sequence[Record] = ()) -> None:
        """Encode what the caches lack. One process does that, before any asks for a batch.

        Args:
            held_out: whose captions, not whose latents, are encoded too.
        """
        records = (*self._dataset.records, *self._dataset.prior)
        captions = (caption for record in (*records, *held_out) for caption in record.captions)
        self._words.fill(tuple(dict.fromkeys(["", *captions])))
        if self._dataset.config.cache_latents:
            mirrored = self._dataset.config.flip > 0
            draws = [centred(record) for record in records]
            draws += [centred(record, flip=True) for record in records if mirrored and record.flips]
            fill_latents(self._cache, self._vae, draws, self._dataset.config.threads, tell)

    def __call__(self, share: Share) -> CaptionedLatents:
        """A pure function of the share."""
        device = next(self._vae.parameters()).device
        if self._pictures is not None:
            batch = self._pictures(share)
            draws, masks, moments = batch.draws, batch.masks, encoded(self._vae, batch.pixels)
        else:
            draws = tuple(self._plan.batch_at(share.step, share.index, share.count))
            masks = torch.stack([mask(draw) for draw in draws]) if self._dataset.config.masks else None
            moments = self._cached(draws)
        whole = replace(share, classes=bool(self._dataset.prior))
        mean, std = moments.to(device).chunk(2, dim=1)
        latents = self._vae.to_latents(mean + std * whole.normal("posterior", *mean.shape[1:]).to(device))
        captions = [draw.caption for draw in draws]
        length = self._length(share)
        return CaptionedLatents(
            latents=latents,
            ids=self._words.ids(captions)[:, :length].to(device) if self._words.learns else None,
            context=None if self._words.learns else self._words.context(captions)[:, :length],
            mask=None if masks is None else F.interpolate(masks, latents.shape[2:], mode="area").to(device),
            weight=self._weights(draws, device),
            keys=tuple(draw.record.key for draw in draws),
        )

    def _length(self, share: Share) -> int | None:
        """Tokens that the captions of this step are cut to; all parts of a step alike."""
        if share.common("trim") >= self._dataset.config.trim_padding:
            return None
        return self._words.longest([draw.caption for draw in self._plan.batch_at(share.step)])

    def _weights(self, draws: Sequence[Draw], device: torch.device) -> Tensor | None:
        """DreamBooth's loss is the sum of two means (arXiv:2208.12242, eq. 2); the mean over all is half of that."""
        weights = torch.tensor([draw.weight * (self._prior_weight if draw.prior else 1.0) for draw in draws])
        if self._dataset.prior:
            weights *= 2
        return None if bool((weights == 1).all()) else weights.to(device)

    def _cached(self, draws: Sequence[Draw]) -> Tensor:
        def make(which: list[int]) -> Sequence[Tensor]:
            return list(encoded(self._vae, torch.stack([pixels(draws[i]) for i in which])).cpu())

        return torch.stack(self._cache.fetch([wanted_latent(draw) for draw in draws], make))


@torch.no_grad()
def encoded(vae: VAE, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) -> mean and standard deviation of their latents, (B, 2C, h, w), unscaled."""
    weight = next(vae.parameters())
    posterior = vae.encode(pictures.to(weight.device))
    return torch.cat([posterior.mean, torch.exp(0.5 * posterior.logvar)], dim=1)


def latent_cache(folder: Path, vae: VAE) -> Cache:
    """A cache of what `encoded` gives, picture by picture."""
    return Cache(folder / "latents", network=tensors_digest(vae.state_dict()))


def fill_latents(cache: Cache, vae: VAE, draws: Sequence[Draw], threads: int, tell: Tell) -> None:
    """Encode what is missing, pictures of one size together."""
    done = 0
    for _, some in groupby(sorted(draws, key=lambda draw: draw.bucket), key=lambda draw: draw.bucket):
        members = list(some)
        for start in range(0, len(members), ENCODED_AT_ONCE):
            part = members[start : start + ENCODED_AT_ONCE]

            def make(which: list[int], part: list[Draw] = part) -> Sequence[Tensor]:
                read = in_threads(pixels, [part[i] for i in which], threads)
                return list(encoded(vae, torch.stack(list(read))).cpu())

            cache.fetch([wanted_latent(draw) for draw in part], make)
            done += len(part)
            tell("encoding pictures", done, len(draws))
    cache.flush()


def spread(dataset: Dataset, most: int) -> tuple[Record, ...]:
    """At most so many records, always the same, from all over a set: its sources follow each other."""
    return dataset.records[:: -(-len(dataset.records) // most)]


def held_out(dataset: Dataset, most: int, size: int) -> Iterator[tuple[Draw, ...]]:
    """Pictures of a validation set, always the same, `size` of one bucket at a time."""
    draws = sorted((centred(record) for record in spread(dataset, most)), key=lambda draw: draw.bucket)
    for _, some in groupby(draws, key=lambda draw: draw.bucket):
        members = tuple(some)
        yield from (members[i : i + size] for i in range(0, len(members), size))


def held_out_latents(dataset: Dataset, vae: VAE, words: Words, most: int, size: int) -> tuple[CaptionedLatents, ...]:
    """The validation's batches, with the middle of each picture's latents."""
    found = []
    for draws in held_out(dataset, most, size):
        mean, _ = encoded(vae, torch.stack([pixels(draw) for draw in draws])).chunk(2, dim=1)
        captions = [draw.caption for draw in draws]
        found.append(
            CaptionedLatents(
                latents=vae.to_latents(mean),
                ids=words.ids(captions).to(mean.device) if words.learns else None,
                context=None if words.learns else words.context(captions),
            )
        )
    return tuple(found)


def captioned(batch: Batch, words: Words, preprocessing: Preprocessing, device: torch.device) -> CaptionedPictures:
    """Pictures with captions as a CLIP takes them."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return CaptionedPictures(
        pixels=((batch.pixels / 2 + 0.5 - mean) / std).to(device), ids=words.ids(batch.captions).to(device)
    )
