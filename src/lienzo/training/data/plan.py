"""Which pictures make which batch: a pure function of (seed, step), so a run's place in its data is its step.

- An epoch is a permutation: each picture is drawn `repeats` times (once, where the source does not say otherwise).
- All pictures of a batch lie in one bucket. The last batch of a bucket is filled up with pictures of the same bucket and
  epoch that are drawn again (`Draw.again`), so that all batches are equally large.
- Captions, dropout, mirroring and crops come from a generator of (seed, step, place in the batch). Ranks take their part
  of the same batch, so that any number of processes sees what one process would.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Generator

from lienzo import rng
from lienzo.errors import ConfigError
from lienzo.training.data.buckets import Bucket, resized
from lienzo.training.data.captions import shuffled
from lienzo.training.data.dataset import Dataset, Record


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A picture as one step sees it.

    Attributes:
        bucket: its width and height after resizing and cropping.
        crop: left and top of the crop in the resized picture.
        flip: mirrored after cropping.
        weight: what its loss is multiplied with.
        again: drawn before in this epoch, to fill a batch up.
        prior: a picture of the whole class.
    """

    record: Record
    caption: str
    bucket: Bucket
    crop: tuple[int, int]
    flip: bool
    weight: float = 1.0
    again: bool = False
    prior: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The batches of a run; made by `plan`.

    Attributes:
        batch_size: pictures a step, of all ranks together, class pictures not counted.
        buckets: those that hold pictures -> indexes of their records, repeats included.
    """

    dataset: Dataset
    batch_size: int
    seed: int
    buckets: dict[Bucket, tuple[int, ...]]
    _epochs: dict[int, list[list[tuple[int, bool]]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(some) // self.batch_size) for some in self.buckets.values())

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> list[Draw]:
        """What a rank draws at a step. All ranks together, in order, draw what one process would.

        With class pictures (`DataConfig.prior`), as many of them follow the pictures, in the same bucket.

        Raises:
            ConfigError: the batch cannot be shared out equally.
        """
        if self.batch_size % world:
            raise ConfigError(
                f"run.batch_size is {self.batch_size}, which cannot be divided into {world} equal parts (processes times "
                f"run.accumulate). Choose a multiple of {world}."
            )
        share = self.batch_size // world
        places = range(rank * share, (rank + 1) * share)
        epoch, index = divmod(step, self.steps_per_epoch)
        batch = self._epoch(epoch)[index]
        draws = [self._draw(self.dataset.records[batch[i][0]], step, i, again=batch[i][1]) for i in places]
        if self.dataset.prior:
            bucket = draws[0].bucket
            draws += [self._draw(self._prior_at(step, i), step, i, bucket=bucket, prior=True) for i in places]
        return draws

    def _epoch(self, epoch: int) -> list[list[tuple[int, bool]]]:
        """Batches of (index of the record, whether drawn again). Kept, because it costs a pass over all records."""
        known = self._epochs.get(epoch)
        if known is not None:
            return known
        batches = []
        for bucket, members in self.buckets.items():
            order = _order(len(members), self.seed, "epoch", epoch, *bucket)
            for begin in range(0, len(order), self.batch_size):
                places = range(begin, begin + self.batch_size)
                batches.append([(members[order[i % len(order)]], i >= len(order)) for i in places])
        mixed = [batches[i] for i in _order(len(batches), self.seed, "batches", epoch)]
        self._epochs.clear()
        self._epochs[epoch] = mixed
        return mixed

    def _prior_at(self, step: int, place: int) -> Record:
        """Class pictures take turns, each once before any comes again."""
        pictures = self.dataset.prior
        turn, index = divmod(step * self.batch_size + place, len(pictures))
        return pictures[_order(len(pictures), self.seed, "prior", turn)[index]]

    def _draw(
        self,
        record: Record,
        step: int,
        place: int,
        *,
        bucket: Bucket | None = None,
        again: bool = False,
        prior: bool = False,
    ) -> Draw:
        config = self.dataset.config
        generator = _generator(self.seed, "prior draw" if prior else "draw", step, place)
        which, drop, flip, across, down = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        caption = record.captions[int(which * len(record.captions))] if record.captions else ""
        if config.shuffle_tags:
            caption = shuffled(caption, config.keep_tags, generator)
        bucket = bucket or record.bucket
        room = _room(record, bucket)
        moves = config.crop == "random" and record.moves
        crop = (int(across * (room[0] + 1)), int(down * (room[1] + 1))) if moves else (room[0] // 2, room[1] // 2)
        return Draw(
            record=record, caption="" if drop < config.dropout else caption, bucket=bucket, crop=crop,
            flip=flip < config.flip and record.flips, weight=record.source.weight, again=again, prior=prior,
        )  # fmt: skip


def centred(record: Record, *, flip: bool = False) -> Draw:
    """A record as it is drawn where nothing is left to chance, with the first of its captions."""
    across, down = _room(record, record.bucket)
    return Draw(
        record=record, caption=record.captions[0] if record.captions else "", bucket=record.bucket,
        crop=(across // 2, down // 2), flip=flip,
    )  # fmt: skip


def _room(record: Record, bucket: Bucket) -> tuple[int, int]:
    """By how much the resized picture is wider and higher than its bucket."""
    width, height = resized(record.width, record.height, bucket)
    return width - bucket[0], height - bucket[1]


def plan(dataset: Dataset, batch_size: int, seed: int = 0) -> Plan:
    """Sort the records into buckets.

    Args:
        batch_size: pictures a step, of all ranks and accumulated parts together.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: it must be 1 or more.")
    members: dict[Bucket, list[int]] = {}
    for i, record in enumerate(dataset.records):
        members.setdefault(record.bucket, []).extend([i] * record.source.repeats)
    return Plan(
        dataset=dataset,
        batch_size=batch_size,
        seed=seed,
        buckets={bucket: tuple(members[bucket]) for bucket in sorted(members)},
    )


def _generator(seed: int, *what: object) -> Generator:
    text = "/".join(map(str, ("lienzo data", seed, *what)))
    return rng.generator(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))


@lru_cache(maxsize=4)
def _order(count: int, seed: int, *what: object) -> tuple[int, ...]:
    """A permutation of range(count)."""
    return tuple(torch.randperm(count, generator=_generator(seed, *what)).tolist())
