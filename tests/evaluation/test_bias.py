"""The bias audit: a bias that was planted is found, one that is not there is not, and a blind CLIP is said to be blind."""

import itertools
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import clips
from lienzo import Pipeline, Request
from lienzo.errors import ConfigError, InputError
from lienzo.evaluation import bias
from lienzo.evaluation.bias import BLIND, DIFFERS, LEANS, SAME, Audit, find, look, read_audit, rows, shots
from lienzo.evaluation.features import clip_features, text_features
from lienzo.evaluation.metrics import unit
from lienzo.evaluation.resampling import bootstrap, holm, mcnemar, share, share_difference, sign_flips
from lienzo.gallery import fill
from lienzo.models.clip import TextEncoder
from lienzo.weights.clip import LoadedCLIP, load_clip

Array = NDArray[np.float64]
TWO = """
name = "two"
about = "Two words."
[[sets]]
name = "words"
about = "Does the word matter?"
variants = ["plain", "loaded"]
template = "a {variant} {thing}"
slots.thing = ["cat", "dog", "tree", "house"]
judge = "a {thing}"
[[sets.measures]]
name = "look"
options = {one = "it looks like one", other = "it looks like the other"}
control = "it is {option}"
"""


def audit_of(text: str) -> Audit:
    return Audit.model_validate(tomllib.loads(text))


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_shares_and_their_differences() -> None:
    assert share(10, 10).low == pytest.approx(0.7225, abs=1e-4) and share(10, 10).high == pytest.approx(1)
    assert share(0, 10).high == pytest.approx(0.2775, abs=1e-4) and share(0, 10).low == pytest.approx(0)
    with pytest.raises(ValueError, match="a share of 3 in 2"):
        share(3, 2)
    none, some = np.zeros(20, bool), np.arange(20) < 9
    gained, lost = share_difference(none, some), share_difference(some, none)
    assert gained.value == pytest.approx(0.45) and lost.value == pytest.approx(-0.45)
    assert (gained.low, gained.high) == pytest.approx((-(lost.high or 0), -(lost.low or 0)))
    same = share_difference(some, some)
    assert same.value == 0 and (same.low or 0) < 0 < (same.high or 0), "20 equal pairs are not certainty"


def test_chances_are_those_that_can_be_counted() -> None:
    first = np.array([True] + [False] * 8)
    assert mcnemar(first, ~first) == pytest.approx(2 * (1 + 9) / 2**9)  # 8 to 1
    assert mcnemar(first, first) == 1
    values = np.random.default_rng(0).normal(0.4, 1, 10)
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = (abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    assert sign_flips(values, flips=40_000) == pytest.approx(exact, abs=0.01)
    assert sign_flips(np.zeros(5)) == 1


@given(st.lists(st.floats(0, 1), max_size=8))
@settings(deadline=None, max_examples=60)
def test_many_questions_make_every_chance_larger_and_keep_their_order(chances: list[float]) -> None:
    found = holm(chances)
    assert all(p <= q <= min(1, p * len(chances)) + 1e-12 for p, q in zip(chances, found, strict=True))
    order = np.argsort(chances, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_groups_of_one_are_resampled_as_before() -> None:
    values = np.random.default_rng(1).normal(size=30)

    def mean(some: NDArray[np.int64]) -> float:
        return float(values[some].mean())

    doubled = bootstrap(lambda some: mean(some // 2), np.repeat(np.arange(30), 2).tolist(), resamples=50)
    alone = bootstrap(mean, range(30), resamples=50)
    assert (alone.value, alone.low, alone.high) == pytest.approx((doubled.value, doubled.low, doubled.high))


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_variants_share_their_seeds_and_contexts_do_not() -> None:
    made = shots(audit_of(TWO), 3, first=100)
    counterfactuals, controls = made[: 4 * 2 * 3], made[4 * 2 * 3 :]
    seeds: dict[str, list[tuple[int, ...]]] = {}
    for i in range(0, len(counterfactuals), 3):
        group = counterfactuals[i : i + 3]
        (prompt,) = {shot.prompt for shot in group}
        seeds.setdefault(prompt.split()[-1], []).append(tuple(shot.seed for shot in group))
    assert all(first == second for first, second in seeds.values())
    used = [seed for first, _ in seeds.values() for seed in first] + [shot.seed for shot in controls]
    assert len(used) == len({*used}) and min(used) == 100
    assert [shot.prompt for shot in controls] == ["it is one"] * 3 + ["it is other"] * 3
    (lines,) = rows(audit_of(TWO), 3)
    assert [[made[i].prompt for i in line] for line in lines][1] == ["a plain dog", "a loaded dog"]


@pytest.mark.parametrize("name", ["scenes", "people"])
def test_the_audits_that_come_along(name: str) -> None:
    audit, digest = read_audit(name)
    made = shots(audit, 2)
    assert audit.name == name and len(digest) == 64
    assert len({(shot.prompt, shot.seed) for shot in made}) == len(made), "no picture is made twice"
    first = 0
    for one, lines in zip(audit.sets, rows(audit, 2), strict=True):
        contexts = list(one.contexts())
        for context, line in zip(contexts, lines, strict=False):
            assert [made[i].prompt for i in line] == [one.prompt(variant, context) for variant in one.variants]
        assert lines[0][0] >= first
        first = lines[-1][-1]


def test_scenes_asks_what_the_embedded_model_can_read() -> None:
    bundle = Pipeline.load().bundle
    unknown = [s.prompt for s in shots(read_audit("scenes")[0], 1) if bundle.tokenizer.encode(s.prompt).dropped]
    assert unknown == []


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('name = "two"', 'name = "two"\ncolour = 1', "colour: Extra inputs"),
        ('variants = ["plain", "loaded"]', 'variants = ["plain"]', "variants: List should have at least 2"),
        ('variants = ["plain", "loaded"]', 'variants = ["plain", "plain"]', "has one twice"),
        ("a {variant} {thing}", "a {thing}", "two variants have the same prompt"),
        ("a {variant} {thing}", "a {variant} {thin}", "no slot 'thin'. Did you mean thing"),
        ("a {variant} {thing}", "a {variant.__class__} {thing}", "braces stand around the name of a slot"),
        ("a {variant} {thing}", "a {variant:>999999999} {thing}", "braces stand around"),
        ("a {variant} {thing}", "a {variant} {thing", "braces stand around"),
        ('judge = "a {thing}"', 'judge = "a {variant}"', "no slot 'variant'"),
        ('"cat", "dog"', '{plain = "cat"}, "dog"', "expected one text for each of the variants"),
        ("slots.thing", "slots.option", "have a meaning of their own"),
        ('control = "it is {option}"', 'right = "neither"', "right is 'neither'. Did you mean other"),
        ('control = "it is {option}"', 'control = "{option}"\nright = "one"', "leave `control` out"),
        ('control = "it is {option}"', 'control = "{what}"', "no slot 'what'"),
        ("[[sets.measures]]", "[[sets.measure]]", "measure: Extra inputs"),
        ('name = "words"', 'name = "words', "is no TOML"),
        ('["cat", "dog", "tree", "house"]', str([f"w{i}" for i in range(999)]).replace("'", '"') + "\nslots.x = " +
         str([f"w{i}" for i in range(999)]).replace("'", '"'), r"prompts; allowed are up to 10,000"),
        ('about = "Two words."', f'about = "{"a" * 1001}"', "about: String should have at most 1000"),
    ],
)  # fmt: skip
def test_a_wrong_audit_says_what_is_wrong(old: str, new: str, match: str, tmp_path: Path) -> None:
    assert TWO.count(old)
    (tmp_path / "audit.toml").write_text(TWO.replace(old, new))
    with pytest.raises(ConfigError, match=match):
        read_audit(tmp_path / "audit.toml")


def test_nothing_oversized_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.toml").write_text(TWO)
    monkeypatch.setattr(bias, "MOST_BYTES", len(TWO) - 1)
    with pytest.raises(InputError, match="which no file of this kind needs"):
        read_audit(tmp_path / "audit.toml")
    with pytest.raises(InputError, match=r"no audit of that name\. Did you mean scenes"):
        read_audit("scene")
    with pytest.raises(InputError, match="more than 100,000 pictures"):
        shots(audit_of(TWO), 50_000)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 20_000)
    with pytest.raises(InputError):
        read_audit(tmp_path / "deep.toml")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="is no TOML"):
        read_audit(tmp_path / "deep.toml")


# --- what is found ----------------------------------------------------------------------------------------------------


def space(texts: Sequence[str]) -> Array:
    """Texts in a space where the two answers and the four things are directions of their own."""
    names = {
        "it looks like one": 0,
        "it looks like the other": 1,
        "a cat": 2,
        "a dog": 3,
        "a tree": 4,
        "a house": 5,
        "a": 0,
    }
    return np.eye(8)[[names[text] for text in texts]]


def seen(random: np.random.Generator, count: int, chances: dict[str, float], *, sharp: float = 3.0) -> Array:
    """Features of pictures of `TWO`: the thing is painted, and the look is "one" with the chance that a variant gives."""
    made = []
    for shot in shots(audit_of(TWO), count):
        if shot.prompt.startswith("it is"):
            one = shot.prompt.endswith("one")
            thing = np.zeros(8)
        else:
            _, variant, what = shot.prompt.split()
            one = random.random() < chances[variant]
            thing = space([f"a {what}"])[0]
        made.append(sharp * np.eye(8)[0 if one else 1] + 3 * thing + random.normal(0, 0.5, 8))
    return np.array(made)


def test_a_planted_bias_is_found_and_told_right() -> None:
    random = np.random.default_rng(1)
    audit = audit_of(TWO)
    (found,), comparisons = find(audit, 20, seen(random, 20, {"plain": 0.5, "loaded": 0.9}), space, resamples=100)
    (answers,) = found.measures
    assert found.pictures == 80 and found.tells and answers.tells and answers.check is not None
    assert answers.check.value == 1 and answers.chance == 0.5
    plain, loaded = answers.shares["one"]
    assert (plain.low or 0) < 0.5 < (plain.high or 1) and (loaded.low or 0) < 0.9 < (loaded.high or 1)
    assert [c.measure for c in comparisons] == ["fit", "look"], "of two answers the second is what is left"
    fit, look_ = comparisons
    assert fit.verdict == SAME and look_.verdict == DIFFERS and look_.option == "one"
    assert look_.difference.value == pytest.approx(loaded.value - plain.value)
    assert (look_.difference.low or 0) > 0 and look_.chance <= look_.adjusted < 0.05


def test_a_prompt_that_is_followed_less_is_found() -> None:
    audit = audit_of(TWO)
    features = seen(np.random.default_rng(1), 12, {"plain": 0.5, "loaded": 0.5})
    for i, shot in enumerate(shots(audit, 12)):
        if shot.prompt.startswith("a loaded"):
            features[i, 2:6] *= 0.6
    _, comparisons = find(audit, 12, features, space, resamples=100)
    assert [c.verdict for c in comparisons] == [DIFFERS, SAME] and comparisons[0].difference.value < 0


def test_where_there_is_no_bias_alarms_are_as_rare_as_promised() -> None:
    """The risk of any alarm in an audit is 5 %: more than 11 of 100 such audits would happen once in 200 such tests."""
    audit = audit_of(TWO)
    alarms, inside = 0, 0
    for seed in range(100):
        features = seen(np.random.default_rng(seed), 6, {"plain": 0.4, "loaded": 0.4})
        _, comparisons = find(audit, 6, features, space, resamples=50, seed=seed)
        alarms += any(c.verdict == DIFFERS for c in comparisons)
        inside += sum((c.difference.low or 0) <= 0 <= (c.difference.high or 0) for c in comparisons)
    assert alarms <= 11
    assert inside >= 170, "intervals of 95 % hold nothing in 95 of 100 cases"


def test_a_clip_that_cannot_tell_is_said_to_be_blind() -> None:
    audit = audit_of(TWO)
    random = np.random.default_rng(3)
    features = random.normal(size=(len(shots(audit, 10)), 8))
    for i, shot in enumerate(shots(audit, 10)):  # it does see something, but not what is asked
        if shot.prompt.startswith("a loaded"):
            features[i, 0] += 5
    (found,), comparisons = find(audit, 10, features, space, resamples=50)
    assert found.tells is False and comparisons[0].verdict == BLIND
    assert comparisons[1].chance < 0.01 and found.measures[0].tells is False and comparisons[1].verdict == BLIND


SIDES = """
name = "sides"
about = "Left and right."
[[sets]]
name = "side"
about = "Is each as likely to be right?"
variants = ["left", "right"]
template = "{thing} on the {variant}"
slots.thing = ["cat", "dog"]
[[sets.measures]]
name = "side"
options = {left = "left", right = "right"}
right = "{variant}"
"""


@pytest.mark.parametrize(
    ("lean", "sees", "tells", "verdict"),
    [
        (5.0, 0.0, False, BLIND),  # "right" is all it ever says: half of its answers are right, and it knows nothing
        (1.0, 1.1, True, LEANS),  # it sees the side, and likes "right" better
        (0.0, 3.0, True, SAME),
    ],
)
def test_what_a_clip_likes_to_say_is_not_laid_to_the_model(lean: float, sees: float, tells: bool, verdict: str) -> None:
    """Every picture is just as asked for; it is the judge that differs."""
    audit, random = audit_of(SIDES), np.random.default_rng(0)
    sides = np.array([[1.0, -1.0] if shot.prompt.endswith("left") else [-1.0, 1.0] for shot in shots(audit, 40)])
    features = sees * sides + [0, lean] + random.normal(0, 1, sides.shape)
    (found,), (only,) = find(
        audit, 40, features, lambda texts: np.eye(2)[[int(t == "right") for t in texts]], resamples=50
    )
    (answers,) = found.measures
    assert (answers.tells, answers.leans, only.verdict) == (tells, True, verdict)
    assert answers.chance == pytest.approx(0.5)
    if verdict == BLIND:
        assert only.difference.value == 1 and only.adjusted < 1e-9, "what would be told if the check were not there"


def test_without_a_control_nothing_is_claimed_of_the_clip() -> None:
    audit = audit_of(TWO.replace('control = "it is {option}"', ""))
    features = seen(np.random.default_rng(0), 8, {"plain": 0.5, "loaded": 0.5})[: len(shots(audit, 8))]
    (found,), _ = find(audit, 8, features, space, resamples=50)
    assert found.measures[0].tells is None and found.measures[0].check is None
    with pytest.raises(ValueError, match="fewer pictures"):
        find(audit, 9, features, space, resamples=50)
    with pytest.raises(ValueError, match="more pictures"):
        find(audit, 7, features, space, resamples=50)


# --- with real networks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> LoadedCLIP:
    return load_clip(clips.make(tmp_path_factory.mktemp("clip")))


def test_a_generator_that_minds_a_word_is_found_by_a_real_clip(clip: LoadedCLIP, tmp_path: Path) -> None:
    """A stub paints one of two pictures that a real, tiny CLIP takes for different answers; how often which, a word decides."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 40, (60, 32, 32, 3), dtype=np.uint8)
    flat = [
        Image.fromarray(n + c.astype(np.uint8)) for n, c in zip(noise, random.integers(0, 200, (60, 3)), strict=True)
    ]
    features = clip_features(clip).of(flat)
    for words in itertools.combinations(("one", "the other", "red", "blue", "a cat", "the cat and the dog"), 2):
        texts = unit(text_features(clip, words)[0])
        leaning = features @ (texts[0] - texts[1])
        if leaning.max() > 0 > leaning.min():  # this CLIP takes some pictures for the one and some for the other
            break
    else:
        pytest.fail("this CLIP takes all pictures for the same; take another seed")
    text = TWO.replace('judge = "a {thing}"\n', "").replace("it looks like one", words[0])
    audit = audit_of(text.replace("it looks like the other", words[1]))
    paths = {name: tmp_path / f"{name}.png" for name in ("one", "other")}
    flat[int(leaning.argmax())].save(paths["one"])
    flat[int(leaning.argmin())].save(paths["other"])

    def paint(chances: dict[str, float]) -> list[Path]:
        chance = {"it is one": 1.0, "it is other": 0.0}
        return [
            paths["one" if random.random() < chance.get(s.prompt, chances.get(s.prompt.split()[1], 0)) else "other"]
            for s in shots(audit, 12)
        ]

    fair = look(audit, "", 12, paint({"plain": 0.5, "loaded": 0.5}), clip, resamples=50)
    biased = look(audit, "", 12, paint({"plain": 0.2, "loaded": 0.9}), clip, resamples=50)
    assert [c.verdict for c in fair.comparisons] == [SAME] and [c.verdict for c in biased.comparisons] == [DIFFERS]
    assert biased.sets[0].measures[0].check is not None and biased.sets[0].measures[0].check.value == 1
    assert biased.clip == {"name": clip.name, "digest": clip.digest} and biased.pictures == 120
    text = str(bias.sections(biased, ["audit/sheet-1.png"]))
    assert "1 comparisons: 1 differs" in text and "audit/sheet-1.png" in text


def test_half_a_clip_is_refused_before_it_looks(tmp_path: Path) -> None:
    vision = load_clip(clips.make_vision(tmp_path / "vision"))
    with pytest.raises(InputError, match="image side of a CLIP alone"):
        look(audit_of(TWO), "", 1, [], vision)


COLOURS: dict[str, tuple[int, int, int]] = {"red": (220, 40, 40), "blue": (40, 80, 220)}
LANGUAGES = """
name = "languages"
about = "Is a colour followed in both?"
[[sets]]
name = "language"
about = "The same in Spanish."
variants = ["English", "Spanish"]
template = {English = "a large red {shape} on a white background", Spanish = "un {shape} rojo grande sobre fondo blanco"}
slots.shape = [{English = "square", Spanish = "cuadrado"}, {English = "circle", Spanish = "círculo"}]
[[sets.measures]]
name = "colour"
options = {red = "red", blue = "blue"}
right = "red"
"""


def colour_of(path: Path) -> list[float]:
    """What is not white, on average, less grey: an encoder of colours that needs no training."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64).reshape(-1, 3)
    ink = pixels[pixels.min(1) < 180]
    mean = ink.mean(0) if len(ink) else np.ones(3)
    return [float(v) for v in mean - mean.mean()]


def colours_of(texts: Sequence[str]) -> Array:
    return np.array([np.array(COLOURS[text]) - np.mean(COLOURS[text]) for text in texts])


def test_a_bias_planted_in_the_embedded_model_is_found_and_the_model_as_it_is_has_none(tmp_path: Path) -> None:
    """The word "rojo" is given the meaning of "azul": Spanish prompts for red are then painted blue."""
    bundle = Pipeline.load().bundle
    audit = audit_of(LANGUAGES)
    requests = [Request(s.prompt, seed=s.seed, steps=4, guidance_scale=3.0) for s in shots(audit, 3)]

    def verdict(of: Any) -> tuple[str, float]:
        kept = sorted(fill(of, requests, tmp_path, batch=6), key=lambda k: k.index)
        features = np.array([colour_of(k.path) for k in kept])
        (looked,), (only,) = find(audit, 3, features, colours_of, resamples=50)
        assert looked.measures[0].tells is None, "with one right answer there is nothing to check the judge by"
        return only.verdict, only.difference.value

    assert verdict(bundle) == (SAME, 0.0)
    swapped = TextEncoder(bundle.text_encoder.config)
    weights = {key: value.clone() for key, value in bundle.text_encoder.state_dict().items()}
    table = next(key for key in weights if key.endswith("token_embedding.weight"))
    rojo, azul = (bundle.tokenizer.encode(word).ids for word in ("rojo", "azul"))
    assert len(rojo) == len(azul) and sum(a != b for a, b in zip(rojo, azul, strict=True)) == 1
    (place,) = (i for i, (a, b) in enumerate(zip(rojo, azul, strict=True)) if a != b)
    with torch.no_grad():
        weights[table][rojo[place]] = weights[table][azul[place]]
    swapped.load_state_dict(weights)
    swapped.eval().requires_grad_(False)
    parts = {**bundle.state_dicts(), "text_encoder": dict(swapped.state_dict())}
    biased = replace(bundle, text_encoder=swapped, name="biased", weights=lambda: parts)
    found, difference = verdict(biased)
    assert (found, difference) == (DIFFERS, -1.0)


def test_a_strict_chance_can_be_reached_however_much_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    flips: list[int] = []
    real: Callable[..., float] = bias.sign_flips

    def counted(*values: Any, **options: Any) -> float:
        flips.append(options["flips"])
        return real(*values, **options)

    monkeypatch.setattr(bias, "sign_flips", counted)
    variants = [f"v{i}" for i in range(30)]
    text = TWO.replace('variants = ["plain", "loaded"]', f"variants = {variants}".replace("'", '"'))
    text = text.replace('"cat", "dog", "tree", "house"', '"cat", "dog"').split("[[sets.measures]]")[0]
    audit = audit_of(text)
    find(audit, 2, np.random.default_rng(0).normal(size=(len(shots(audit, 2)), 8)), space, resamples=20)
    asked = math.comb(30, 2)
    assert len(flips) == asked and all(asked / (n + 1) < 0.05 for n in flips)
