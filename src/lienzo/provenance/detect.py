"""Did a picture come out of a model like this one? Told by how its VAE sees the picture, without any record or mark.

A picture that a VAE decoded is reproduced by that VAE better than one it never made (AEROBLADE, arXiv:2401.17879). What
is measured here is that error in four bands of frequency, each beside what it is compared with:

| quantity | of every band | why |
|---|---|---|
| `error` | log of |x - R(x)| by |x|, mean absolute values | the paper's idea, relative to how much there is to reproduce |
| `peak` | the same of root mean squares | edges weigh more than flat ground |
| `again` | log of |x - R(x)| by |R(x) - R(R(x))| | how much nearer to what the decoder can make a second pass comes |
| `shift` | log of |x - R(x)| by the mean of the same at three shifts by half a latent cell | what was decoded lies on the cells' grid |

R is decode(encode(x).mode()), clamped. Every picture is first saved as the same JPEG, so that what a file went through before
decides less. A logistic regression, fitted to pictures of the model and to others (see `calibrate`), turns the quantities into a
likelihood ratio, and thresholds at stated error rates into a verdict, which may be "inconclusive". A finding speaks about
the kinds of pictures of its calibration and about nothing else.
"""

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from typing import Final, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lienzo.config import Config
from lienzo.errors import ConfigError, ImageError, InputError
from lienzo.images import normalize, to_tensor
from lienzo.models.bundle import Bundle, tensors_digest
from lienzo.models.vae import VAE

Array = NDArray[np.float64]
Verdict = Literal["ours", "not ours", "inconclusive"]

JPEG_QUALITY: Final = 95
"""Of the JPEG that every picture becomes first, with full colour resolution."""
BANDS: Final = 4
QUANTITIES: Final = ("error", "peak", "again", "shift")
FEATURES: Final = tuple(f"{quantity}_{band}" for quantity in QUANTITIES for band in range(BANDS))
"""Band 0 is the finest; the last one is what is left."""
TILES: Final = 2
"""Of a larger picture, so many tiles of the model's own size are looked at, along each side."""
UNIT: Final = 2 ** (BANDS - 1)
"""Sides that the bands can be taken of are multiples of this."""
FEWEST: Final = 100
"""Pictures of either class below which no error of one per cent can be told."""
FALSE: Final = 0.01
"""Share of other pictures that may be called ours, and of ours that may be called others'."""
ROOM: Final = 0.25
"""Part of a feature's range by which a picture may lie outside of it and still count as familiar."""
FOLDS: Final = 5
RIDGE: Final = 1.0
MOST_PIXELS: Final = 16_000_000
"""Of a picture that is looked at: it is saved as JPEG, and a watermark is looked for, in the whole of it. Four times as many
took a minute and 3.7 GB."""
TINY: Final = 1e-5
"""Added to every error before its logarithm: a thousandth of a grey level or so."""


class Mark(Protocol):
    """What a finder of watermarks gives."""

    @property
    def record_id(self) -> int: ...

    @property
    def tag_valid(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Calibration(Config):
    """What the features of a VAE's pictures look like beside others'. JSON: `from_json`, `to_json`.

    Attributes:
        vae: digest of the VAE's weights, see `vae_digest`.
        jpeg_quality: of the common JPEG.
        features: names, in the order of everything below.
        mean, scale: z = (feature - mean) / scale.
        weights, curves, bias: the natural logarithm of the likelihood ratio is weights . z + curves . z^2 + bias.
        low, high: of each feature, among all pictures of the calibration.
        ours_low, ours_high: the same, among the model's own.
        ours, others: how many pictures there were of either.
        smallest: their shortest side, in pixels; what is smaller is inconclusive.
        ours_above, others_below: logarithms beyond which a verdict is given.
        false_ours, false_others: the error rates that these thresholds were set for.
        auc: area under the ROC curve, cross-validated; its 95 % interval (Hanley and McNeil 1982).
        about: the pictures in words.
    """

    vae: str
    jpeg_quality: int
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    curves: tuple[float, ...]
    bias: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    ours_low: tuple[float, ...]
    ours_high: tuple[float, ...]
    ours: int
    others: int
    smallest: int
    ours_above: float
    others_below: float
    false_ours: float
    false_others: float
    auc: tuple[float, float, float]
    about: str

    def __post_init__(self) -> None:
        lists = ("mean", "scale", "weights", "curves", "low", "high", "ours_low", "ours_high")
        unlike = [name for name in lists if len(getattr(self, name)) != len(self.features)]
        if unlike or set(self.features) - set(FEATURES) or min(self.scale, default=0) <= 0:
            raise ConfigError(
                f"Calibration: {', '.join(unlike) or 'features or scale'} does not fit the {len(self.features)} features; "
                "it was edited or made by another version. Make it again: lienzo detect --calibrate."
            )
        if self.ours < 1 or self.others < 1 or self.others_below > 0 or self.ours_above < 0:
            raise ConfigError(
                "Calibration: its counts or thresholds cannot be. Make it again: lienzo detect --calibrate."
            )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises ConfigError: no JSON object, or one with other keys or values."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise ConfigError("Calibration: not a JSON object. Make it with: lienzo detect --calibrate.")
        missing = sorted(set(cls.__dataclass_fields__) - set(data))
        if missing:
            raise ConfigError(f"Calibration: {', '.join(missing)} missing. Make it with: lienzo detect --calibrate.")
        return cls.from_dict(data)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def evidence(self, values: Array) -> Array:
        """Features (..., len(features)) -> natural logarithms of likelihood ratios (...), as the regression has them."""
        found: Array = _curved((values - self.mean) / self.scale) @ np.array([*self.weights, *self.curves]) + self.bias
        return found

    def likelihood_ratio(self, evidence: float) -> float:
        """Held within what so many pictures can say: no more than their number to one."""
        most = math.log(min(self.ours, self.others))
        return math.exp(min(max(evidence, -most), most))

    def verdict(self, values: Array, side: int) -> Verdict:
        """Of one picture's features (len(features),) and its shorter side in pixels."""
        if side < self.smallest:
            return "inconclusive"
        evidence = float(self.evidence(values))
        if evidence > self.ours_above and _within(values, self.ours_low, self.ours_high):
            return "ours"
        if evidence < self.others_below and _within(values, self.low, self.high):
            return "not ours"
        return "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a picture was found to be.

    Attributes:
        likelihood_ratio: how much likelier the features are of the model's pictures than of others; None: not calibrated,
            or a mark was found.
        features: name -> value; see the module's table.
        mark: what the watermark's finder found, if one was given.
        means: what the verdict says and what it does not, for people.
    """

    verdict: Verdict
    likelihood_ratio: float | None
    features: dict[str, float]
    mark: Mark | None = None
    means: str


def vae_digest(bundle: Bundle) -> str:
    """SHA-256 of the VAE's weights as published: the same for every dtype that they are loaded in."""
    bundle = bundle.base or bundle
    return tensors_digest((bundle.weights() if bundle.weights is not None else bundle.state_dicts())["vae"])


def shipped_calibration(bundle: Bundle) -> Calibration | None:
    """The calibration that the package carries for this VAE, if it has one."""
    digest, folder = vae_digest(bundle), files("lienzo") / "assets" / "detect"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else ():
        if entry.name.endswith(".json"):
            found = Calibration.from_json(entry.read_bytes())
            if found.vae == digest:
                return found
    return None


def detect(
    image: Image.Image,
    bundle: Bundle,
    calibration: Calibration | None = None,
    *,
    find_mark: Callable[[Image.Image], Mark | None] | None = None,
) -> Finding:
    """Look for traces of the bundle's VAE in a picture.

    Args:
        calibration: None: the one that the package carries for this VAE; without any the verdict is "inconclusive".
        find_mark: looks for a watermark. A marked picture is "inconclusive": its features are not judged, and marks can be copied.

    Raises:
        ConfigError: the calibration is of another VAE.
        ImageError: a picture too small to look at, or of more than `MOST_PIXELS`.
    """
    image = normalize(image, most=MOST_PIXELS)
    calibration = shipped_calibration(bundle) if calibration is None else calibration
    if calibration is not None and calibration.vae != vae_digest(bundle):
        raise ConfigError(
            f"The calibration is of a VAE {calibration.vae[:16]}..., {bundle.name}'s is {vae_digest(bundle)[:16]}.... "
            "Name the model that it was made for, or make another: lienzo detect --calibrate."
        )
    mark = find_mark(image) if find_mark is not None else None
    quality = JPEG_QUALITY if calibration is None else calibration.jpeg_quality
    found = features(image, bundle.vae, jpeg_quality=quality)
    ratio: float | None = None
    verdict: Verdict = "inconclusive"
    if mark is not None:
        # the calibration knows no marked pictures, and marks change the features: on boceto, renders become like ours
        whose = "made with a key of yours, " if mark.tag_valid else "that no key here vouches for, "
        means = (
            f"It holds a watermark {whose}of record {mark.record_id:012x}. Whoever has one marked picture can copy its mark into any "
            "other, so this alone says nothing of whose it is: hold it against the record (lienzo verify). What else the pixels look "
            "like is not told of marked pictures, as the mark itself changes that."
        )
    elif calibration is None:
        means = (
            f"Nobody has measured what pictures of {bundle.name} look like to its VAE. To do so: "
            "lienzo detect --calibrate OUT --real FOLDER --prompts FILE --model MODEL."
        )
    else:
        values = np.array([found[name] for name in calibration.features])
        ratio = calibration.likelihood_ratio(float(calibration.evidence(values)))
        verdict = calibration.verdict(values, min(image.size))
        means = _in_words(verdict, calibration)
    return Finding(verdict=verdict, likelihood_ratio=ratio, features=found, mark=mark, means=means)


def _in_words(verdict: Verdict, calibration: Calibration) -> str:
    about = f"The calibration: {calibration.about}; half of all saved as JPEG once."
    match verdict:
        case "ours":
            return (
                f"About {calibration.false_ours:.0%} of other pictures like those of the calibration look like this; blurred ones do "
                f"more often, and a picture that anyone sent through this VAE does, whatever it shows. A hint, no proof. {about}"
            )
        case "not ours":
            return (
                f"About {calibration.false_others:.0%} of this model's pictures look like this, on the average of those unchanged and "
                f"saved as JPEG; resized or painted over, more do. A hint, no proof. {about}"
            )
    return (
        "It cannot be told at the error rates asked for: it looks too little like either kind, it is unlike all pictures of the "
        f"calibration, or it is smaller than they were ({calibration.smallest} pixels). JPEG alone often does that. {about}"
    )


def features(image: Image.Image, vae: VAE, *, jpeg_quality: int = JPEG_QUALITY) -> dict[str, float]:
    """The quantities of `FEATURES`; a pure function of pixels and weights.

    Raises:
        ImageError: a side of fewer pixels than four latent cells, or four times the coarsest band's.
    """
    x = to_tensor(_same_jpeg(normalize(image).convert("RGB"), jpeg_quality))
    weight = next(vae.parameters())
    totals = torch.zeros(4, BANDS, dtype=torch.float64)  # |x|, x^2, |e|, e^2 of each band
    again, shifted = torch.zeros(BANDS, dtype=torch.float64), torch.zeros(3, BANDS, dtype=torch.float64)
    for tile in _tiles(x, vae):
        seen, back, second = _reconstructed(tile.to(weight.device, weight.dtype), vae)
        error = seen - back
        for band, (of_x, of_error, of_second) in enumerate(
            zip(_bands(seen), _bands(error), _bands(back[:1] - second), strict=True)
        ):
            own, others = of_error[0], of_error[1:]
            totals[:, band] += torch.stack(
                [of_x[0].abs().mean(), of_x[0].square().mean(), own.abs().mean(), own.square().mean()]
            ).cpu()
            again[band] += of_second.abs().mean().cpu()
            shifted[:, band] += others.abs().mean(dim=(1, 2, 3)).cpu()
    absolute, square, error_absolute, error_square = totals
    rows = {
        "error": _log(error_absolute) - _log(absolute),
        "peak": _log(error_square.sqrt()) - _log(square.sqrt()),
        "again": _log(error_absolute) - _log(again),
        "shift": _log(error_absolute) - _log(shifted).mean(0),
    }
    return {f"{name}_{band}": float(row[band]) for name, row in rows.items() for band in range(BANDS)}


def _log(total: Tensor) -> Tensor:
    return (total + TINY).log()


def _same_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return Image.open(buffer).convert("RGB")


def _tiles(x: Tensor, vae: VAE) -> Iterator[Tensor]:
    """Parts of a picture (3, H, W) that are no larger than the VAE was trained on, on the grid of latent cells."""
    unit = math.lcm(vae.config.factor, UNIT)
    sides = [min(length, vae.config.sample_size) // unit * unit for length in x.shape[1:]]
    if min(sides) < 4 * unit:
        raise ImageError(
            f"The picture is {x.shape[2]}x{x.shape[1]}; both sides must have {4 * unit} pixels at least to be looked at."
        )
    starts = []
    for length, side in zip(x.shape[1:], sides, strict=True):
        last = (length - side) // unit * unit
        starts.append(sorted({round(last * i / (TILES - 1) / unit) * unit for i in range(TILES)}))
    for top, left in product(*starts):
        yield x[:, top : top + sides[0], left : left + sides[1]]


@torch.inference_mode()
def _reconstructed(tile: Tensor, vae: VAE) -> tuple[Tensor, Tensor, Tensor]:
    """A tile (3, H, W) -> what was looked at, (4, 3, h, w): the tile and three shifts of it; R of each; R of R of the first."""
    factor, unit = vae.config.factor, math.lcm(vae.config.factor, UNIT)
    height, width = (length - unit for length in tile.shape[1:])
    seen = torch.stack(
        [tile[:, top : top + height, left : left + width] for top, left in product((0, factor // 2), repeat=2)]
    )
    back = torch.cat(
        [_there_and_back(one[None], vae) for one in seen]
    )  # one at a time: it is faster on CPUs, and smaller
    return seen.float(), back.float(), _there_and_back(back[:1], vae).float()


def _there_and_back(x: Tensor, vae: VAE) -> Tensor:
    return vae.decode(vae.encode(x).mode()).clamp(-1, 1)


def _bands(x: Tensor) -> list[Tensor]:
    """A Laplacian pyramid (Burt and Adelson 1983) of (B, 3, H, W), over means of 2x2 pixels."""
    found = []
    for _ in range(BANDS - 1):
        low = F.avg_pool2d(x, 2)
        found.append(x - F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False))
        x = low
    return [*found, x]


def calibrate(
    bundle: Bundle,
    ours: Sequence[Image.Image],
    others: Sequence[Image.Image],
    *,
    about: str,
    seed: int = 0,
    advance: Callable[[int, int], object] | None = None,
) -> Calibration:
    """Measure pictures of both classes, half of them saved as JPEG of a quality between 60 and 95 before, and fit.

    Args:
        ours: made by the bundle. The i-th of either class go into the same fold: give pairs where there are any.
        about: which pictures, for people who read a finding.
        advance: called with (pictures done, of).

    Raises:
        InputError: too few pictures, see `FEWEST`.
    """
    _check_counts(len(ours), len(others))
    rows: list[list[float]] = []
    smallest = min(min(image.size) for image in (*ours, *others))
    for image in (*ours, *others):
        index = len(rows) if len(rows) < len(ours) else len(rows) - len(ours)
        found = features(aged(image, np.random.default_rng((seed, len(rows) >= len(ours), index))), bundle.vae)
        rows.append([found[name] for name in FEATURES])
        if advance is not None:
            advance(len(rows), len(ours) + len(others))
    values = np.array(rows)
    return fit(values[: len(ours)], values[len(ours) :], vae=vae_digest(bundle), about=about, smallest=smallest)


def aged(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A picture as it may be met: as it is, or saved as JPEG once."""
    if rng.random() < 0.5:
        return image
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
    return Image.open(buffer).convert("RGB")


def fit(
    ours: Array,
    others: Array,
    *,
    vae: str,
    about: str,
    smallest: int,
    names: Sequence[str] = FEATURES,
    jpeg_quality: int = JPEG_QUALITY,
) -> Calibration:
    """Fit the regression to features, (N, len(FEATURES)) of each class, and set thresholds on cross-validated evidence.

    The rates hold for the mixture of pictures that is given, on its average, not for each sort in it.

    A threshold is the k-th most extreme value of the other class's n, k = floor(rate (n + 1)): a further picture of that class
    lies beyond it with a probability of at most the rate, whatever the distribution is, as long as it comes from the same.

    Raises:
        InputError: too few pictures, see `FEWEST`.
    """
    _check_counts(len(ours), len(others))
    columns = [FEATURES.index(name) for name in names]
    ours, others = ours[:, columns], others[:, columns]
    held_ours, held_others = cross_validated(ours, others)
    values = np.concatenate([ours, others])
    is_ours = np.arange(len(values)) < len(ours)
    mean, scale, weights, bias = _regression(values, is_ours)
    # the evidence of pictures that the fit did not see is less extreme: its slope says by how much
    slope = min(1.0, max(0.0, _slope(held_ours, held_others)))
    held_ours, held_others = slope * held_ours, slope * held_others
    value = auc(held_ours, held_others)
    error = 1.96 * auc_error(value, len(ours), len(others))
    return Calibration(
        vae=vae, jpeg_quality=jpeg_quality, features=tuple(names), mean=_tuple(mean), scale=_tuple(scale),
        weights=_tuple(slope * weights[: len(names)]), curves=_tuple(slope * weights[len(names) :]), bias=float(slope * bias), low=_tuple(values.min(0)), high=_tuple(values.max(0)),
        ours_low=_tuple(ours.min(0)), ours_high=_tuple(ours.max(0)), ours=len(ours), others=len(others), smallest=smallest,
        ours_above=max(0.0, -_lowest(-held_others, FALSE)), others_below=min(0.0, _lowest(held_ours, FALSE)),
        false_ours=FALSE, false_others=FALSE,
        auc=(value, max(0.0, value - error), min(1.0, value + error)), about=about,
    )  # fmt: skip


def cross_validated(ours: Array, others: Array) -> tuple[Array, Array]:
    """Evidence on every picture by a regression that did not see its fold; the i-th of either class share one."""
    found = np.zeros(len(ours)), np.zeros(len(others))
    for fold in range(FOLDS):
        out = [np.arange(len(rows)) % FOLDS == fold for rows in (ours, others)]
        some, rest = ours[~out[0]], others[~out[1]]
        mean, scale, weights, bias = _regression(
            np.concatenate([some, rest]), np.arange(len(some) + len(rest)) < len(some)
        )
        for rows, held, mine in zip((ours, others), found, out, strict=True):
            held[mine] = _curved((rows[mine] - mean) / scale) @ weights + bias
    return found


def auc(ours: Array, others: Array) -> float:
    """How often a picture of ours has more evidence than another; ties count half."""
    ranks = np.searchsorted(np.sort(others), ours, "left") + np.searchsorted(np.sort(others), ours, "right")
    return float(ranks.mean() / 2 / len(others))


def auc_error(value: float, ours: int, others: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, eq. 2)."""
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (ours - 1) * (q1 - value**2) + (others - 1) * (q2 - value**2)
    return math.sqrt(max(0.0, variance) / (ours * others))


def _lowest(values: Array, rate: float) -> float:
    """The k-th smallest, k = floor(rate (n + 1))."""
    return float(np.sort(values)[math.floor(rate * (len(values) + 1)) - 1])


def _regression(values: Array, is_ours: NDArray[np.bool_]) -> tuple[Array, Array, Array, float]:
    """Mean, scale, weights (of `_curved`) and bias of a logistic regression in which both classes weigh the same, so that its
    log-odds are the logarithm of a likelihood ratio."""
    mean, scale = values.mean(0), np.maximum(values.std(0), TINY)
    design = np.column_stack([_curved((values - mean) / scale), np.ones(len(values))])
    solved = _logistic(design, is_ours, ridge=np.array([RIDGE] * (design.shape[1] - 1) + [0.0]))
    return mean, scale, solved[:-1], float(solved[-1])


def _curved(z: Array) -> Array:
    """Standardised features and their squares, (..., 2 F): one class may lie amid the other, as drawings do amid textures."""
    return np.concatenate([z, z * z], -1)


def _slope(ours: Array, others: Array) -> float:
    """By what the evidence must be multiplied to fit these pictures best."""
    design = np.concatenate([ours, others])[:, None]
    return float(_logistic(design, np.arange(len(design)) < len(ours), ridge=np.array([TINY]))[0])


def _logistic(design: Array, is_ours: NDArray[np.bool_], *, ridge: Array) -> Array:
    """Ridge-penalised maximum likelihood by Newton's method, with steps halved until they help."""
    count = len(is_ours)
    share = np.where(is_ours, count / (2 * is_ours.sum()), count / (2 * (~is_ours).sum()))
    sign = np.where(is_ours, 1.0, -1.0)

    def loss(w: Array) -> float:
        return float((share * np.logaddexp(0, -sign * (design @ w))).sum() + (ridge * w * w).sum() / 2)

    w = np.zeros(design.shape[1])
    for _ in range(50):
        odds = 1 / (1 + np.exp(-np.clip(design @ w, -500, 500)))
        gradient = design.T @ (share * (odds - is_ours)) + ridge * w
        hessian = (design.T * (share * odds * (1 - odds))) @ design + np.diag(ridge + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return w


def _within(values: Array, low: Iterable[float], high: Iterable[float]) -> bool:
    bottom, top = np.array(low), np.array(high)
    room = ROOM * (top - bottom)
    return bool(((values >= bottom - room) & (values <= top + room)).all())


def _tuple(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _check_counts(ours: int, others: int) -> None:
    if min(ours, others) < FEWEST:
        raise InputError(
            f"A calibration needs {FEWEST} pictures of either kind at least, to tell errors of {FALSE:.0%}; got {ours} of the "
            f"model's and {others} others."
        )
