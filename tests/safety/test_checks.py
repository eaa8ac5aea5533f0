"""Checks fail closed, whatever they do."""

import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from lienzo import Request
from lienzo.errors import BlockedError, LienzoError, SafetyError
from lienzo.safety import Outcome, Policy, Score, check_picture, check_prompt, combine, require

PICTURE = Image.new("RGB", (8, 8), "red")
PASSED = Outcome(status="passed", by=("me",), scores=(Score(name="x", value=-0.5),))
BLOCKED = Outcome(status="blocked", by=("you",), reasons=("Ugly.",))
FLAGGED = Outcome(status="flagged", by=("them",), reasons=("Odd.",))
NOT_CHECKED = Outcome(status="not_checked", reasons=("Asleep.",))
EVERY = (PASSED, NOT_CHECKED, FLAGGED, BLOCKED)
EMPTY = Policy()


def says(outcome: Any) -> Any:
    return lambda _: outcome


def raises(error: BaseException) -> Any:
    def check(_: object) -> Outcome:
        raise error

    return check


NONSENSE = [
    None, True, "passed", 1, {"status": "passed", "by": ["me"]}, Outcome,
    Outcome.model_construct(status="passed", by=(), scores=(), reasons=()),
    Outcome.model_construct(status="fine", by=("me",), scores=(), reasons=()),
    Outcome.model_construct(status="passed", by=("me",), reasons=(), scores=(Score.model_construct(name="x", value=float("nan")),)),
]  # fmt: skip


@pytest.mark.parametrize("found", NONSENSE, ids=lambda found: repr(found)[:40])
def test_nonsense_is_an_error(found: Any) -> None:
    with pytest.raises(SafetyError, match="not returned"):
        check_picture(PICTURE, [says(PASSED), says(found)])
    with pytest.raises(SafetyError, match="not returned"):
        check_prompt(Request("x"), EMPTY, checks=[says(found)])


@pytest.mark.parametrize(
    "error",
    [ValueError("secret words"), RuntimeError(), MemoryError(), ZeroDivisionError(), StopIteration(), LienzoError("x")],
)
def test_a_check_that_raises_is_an_error(error: Exception) -> None:
    with pytest.raises(SafetyError, match="not returned") as raised:
        check_picture(PICTURE, [raises(error), says(PASSED)])
    assert type(error).__name__ in str(raised.value) and "secret words" not in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value))
    assert "secret words" not in shown, "the prompt may be in it"
    with pytest.raises(SafetyError, match="not returned"):
        check_prompt(Request("x"), EMPTY, checks=[raises(error)])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), BlockedError(BLOCKED)])
def test_stopping_and_blocking_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        check_picture(PICTURE, [raises(error)])


def test_a_check_cannot_change_the_picture() -> None:
    def blackens(image: Image.Image) -> Outcome:
        image.paste("black", (0, 0, *image.size))
        return PASSED

    def is_red(image: Image.Image) -> Outcome:
        assert image.getpixel((0, 0)) == (255, 0, 0)
        return PASSED

    assert check_picture(PICTURE, [blackens, is_red]).status == "passed"
    assert PICTURE.getpixel((0, 0)) == (255, 0, 0)


def test_without_checks_nobody_looked() -> None:
    assert check_picture(PICTURE, []).status == "not_checked"
    assert require(check_picture(PICTURE, [])).reasons  # it is returned, and says so
    assert check_prompt(Request("x"), EMPTY).by == (f"policy:{EMPTY.digest()}",)


@given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=6))
def test_several_checks_are_as_bad_as_the_worst(outcomes: list[Outcome]) -> None:
    together = combine(outcomes)
    worst = max(outcomes, key=EVERY.index)
    assert together.status == worst.status
    assert set(together.reasons) == {r for o in outcomes for r in o.reasons}
    assert set(together.by) == {b for o in outcomes for b in o.by}
    assert len(together.scores) == sum(len(o.scores) for o in outcomes)
    assert together == check_picture(PICTURE, [says(o) for o in outcomes])


def test_a_blocked_picture_is_an_outcome_with_a_reason() -> None:
    for outcome in (PASSED, NOT_CHECKED, FLAGGED):
        assert require(outcome) is outcome
    with pytest.raises(BlockedError, match=r"^Blocked: Ugly\.$") as error:
        require(BLOCKED)
    assert error.value.outcome == BLOCKED
    again = pickle.loads(pickle.dumps(error.value))  # workers send their errors home
    assert isinstance(again, BlockedError) and again.outcome == BLOCKED and str(again) == str(error.value)


def test_outcomes_are_json_and_frozen() -> None:
    for outcome in EVERY:
        assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome
        assert hash(outcome) == hash(outcome.model_copy())
    with pytest.raises(ValidationError, match="frozen"):
        PASSED.status = "blocked"  # type: ignore[misc]


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "passed"}, {"status": "blocked", "by": ["me"]}, {"status": "not_checked"}, {"status": "ok", "by": ["me"]},
        {"status": "flagged", "reasons": ["Odd."]}, {"status": "passed", "by": [""]}, {"status": "passed", "by": ["me"], "x": 1},
        {"status": "passed", "by": ["me"], "scores": [{"name": "x", "value": float("inf")}]},
    ],
)  # fmt: skip
def test_outcomes_that_say_too_little_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Outcome.model_validate(fields)


def test_threads() -> None:
    def check(number: int) -> str:
        checks = [says(EVERY[number % 4])] if number % 5 else [raises(ValueError())]
        try:
            return check_picture(PICTURE, checks).status
        except SafetyError:
            return "error"

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(check, range(400)))
    assert got == [EVERY[n % 4].status if n % 5 else "error" for n in range(400)]
