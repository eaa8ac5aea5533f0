"""The simulation label: visible, legible after compression, the same every time, and nothing else changed."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lienzo.errors import RequestError
from lienzo.safety.simulation import BAND, INK, WORDS, _drawn, label

SIZES = [(64, 64), (64, 512), (512, 64), (128, 128), (200, 264), (512, 512)]


def background(size: tuple[int, int], seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)


def changed(before: Image.Image, after: Image.Image) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    found: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = (np.asarray(before) != np.asarray(after)).any(-1)
    return found


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """WCAG 2, contrast ratio."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", sorted(WORDS))
def test_a_band_lies_across_the_whole_picture_and_nothing_else_is_changed(size: tuple[int, int], language: str) -> None:
    before = background(size)
    kept = before.tobytes()
    after, said = label(before, language)
    assert before.tobytes() == kept and after.size == size and after.mode == "RGB"
    inside = changed(before, after)
    assert inside.any(0).all()  # from the left edge to the right one
    # a column crosses the band once, where it is as high as was said, and a little higher where it is turned
    columns = inside.sum(0)
    assert columns.max() <= said.height / np.cos(np.radians(said.angle)) + 3
    assert np.median(columns) >= 0.8 * said.height
    assert inside.mean() < 0.55
    middle = np.asarray(after)[inside]
    ink, band = ((np.abs(middle.astype(int) - colour).max(-1) < 30).mean() for colour in (INK, BAND))
    assert ink > 0.05 and band > 0.3
    assert WORDS[language] == said.text and said.language == language


def test_ink_and_band_are_told_apart() -> None:
    assert contrast(INK, BAND) > 7


@pytest.mark.parametrize("side", [64, 96, 128])
@pytest.mark.parametrize("quality", [95, 50])
def test_the_word_can_be_read_even_after_jpeg(side: int, quality: int) -> None:
    """Which of all words is it? The one whose letters lie where the picture is dark."""
    for language in ("en", "es", "it", "pl", "pt"):
        after, _ = label(background((side, side)), language)
        file = io.BytesIO()
        after.save(file, "JPEG", quality=quality)
        grey = np.asarray(Image.open(file).convert("L"), dtype=float)
        candidates = {}
        for text in {*WORDS.values(), "STIMULATION", "SIMULANTION", "SIMULACRUM", "LAMINATIONS"}:
            alone = np.asarray(_labelled_with(text, side).convert("L"), dtype=float)
            rows = slice(side // 2 - side // 16, side // 2 + side // 16)
            candidates[text] = np.corrcoef(grey[rows].ravel(), alone[rows].ravel())[0, 1]
        assert max(candidates, key=lambda text: candidates[text]) == WORDS[language]


def _labelled_with(text: str, side: int) -> Image.Image:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lienzo.safety.simulation.WORDS", {"en": text})
        return label(Image.new("RGB", (side, side), "gray"))[0]


@pytest.mark.parametrize(("letter", "plain"), [("Ó", "O"), ("Ã", "A"), ("Ç", "C")])
@pytest.mark.parametrize("size", [9.0, 40.0])
def test_marks_are_drawn(letter: str, plain: str, size: float) -> None:
    """The font has none: it would draw a box."""
    with_mark, without = _drawn(letter, size), _drawn(plain, size)
    assert with_mark.height >= without.height + size / 12
    box = _drawn("\uffff", size)
    assert with_mark.size != box.size or with_mark.tobytes() != box.tobytes()


def test_the_same_pixels_every_time() -> None:
    want = label(background((256, 192)), "es")[0].tobytes()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: label(background((256, 192)), "es")[0].tobytes(), range(32)))
    assert set(got) == {want}
    assert label(background((256, 192)), "en")[0].tobytes() != want


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_kinds_of_pictures(mode: str) -> None:
    assert label(background((64, 64)).convert(mode))[0].mode == "RGB"


@pytest.mark.parametrize("size", [(63, 64), (64, 8), (512, 32)])
def test_too_small_a_picture_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="64"):
        label(background(size))


@pytest.mark.parametrize("language", ["", "EN", "xx", "zh"])
def test_a_language_without_a_word_is_refused(language: str) -> None:
    with pytest.raises(RequestError, match="Allowed: ca, de"):
        label(background((64, 64)), language)
