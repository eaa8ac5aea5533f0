"""Checks asked one after another, failing closed.

A check is anything that takes a request, or a picture, and returns an `Outcome`:

    def not_blue(image):
        r, g, b = image.resize((1, 1)).getpixel((0, 0))
        if b > r + g:
            return Outcome(status="blocked", by=("not-blue",), reasons=("The picture is too blue.",))
        return Outcome(status="passed", by=("not-blue",))

    check_picture(image, [not_blue, checker])

A check that raises, or that returns anything but an outcome, is a `SafetyError`: what was not checked is not returned. Whoever
needs more than the picture binds it beforehand, with `functools.partial` say.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from lienzo.errors import BlockedError, SafetyError
from lienzo.safety.outcome import Outcome, combine
from lienzo.safety.policy import Policy

if TYPE_CHECKING:  # these bring torch and PIL
    from PIL import Image

    from lienzo.pipeline.request import Request


class PictureCheck(Protocol):
    """Looks at a finished picture. Threads may call it at once; it gets a copy that it may spoil."""

    def __call__(self, image: "Image.Image", /) -> Outcome: ...


class PromptCheck(Protocol):
    """Looks at a request before anything is made. Threads may call it at once."""

    def __call__(self, request: "Request", /) -> Outcome: ...


def check_prompt(
    request: "Request", policy: Policy, tenant: str | None = None, *, checks: Iterable[PromptCheck] = ()
) -> Outcome:
    """Ask the policy, and further checks, whether a picture may be made.

    Raises:
        SafetyError: one of them could not answer. Do not make the picture.
    """
    by_policy = _answer(partial(policy.check, tenant=tenant), request, "Policy.check")
    return combine([by_policy, *(_answer(check, request, _name(check)) for check in checks)])


def check_picture(image: "Image.Image", checks: Iterable[PictureCheck]) -> Outcome:
    """Ask checks whether a picture may be shown. All are asked, even after one that says no.

    Returns:
        What they found together; without any check, "not_checked".

    Raises:
        SafetyError: one of them could not answer. Do not return the picture.
    """
    return combine([_answer(check, image.copy(), _name(check)) for check in checks])


def require(outcome: Outcome) -> Outcome:
    """The outcome, unless it blocks.

    Raises:
        BlockedError: it does.
    """
    if outcome.status == "blocked":
        raise BlockedError(outcome)
    return outcome


def _name(check: object) -> str:
    return str(getattr(check, "__qualname__", type(check).__qualname__))


def _answer(check: Callable[[Any], object], about: Any, name: str) -> Outcome:
    """What a check says, looked at again: pydantic lets callers make models without validating them."""
    try:
        found = check(about)
    except SafetyError:
        raise
    except Exception as error:  # whatever it is, nobody checked; its text may hold the prompt, so neither it nor its traceback is shown
        raise SafetyError(
            f"The safety check {name} failed ({type(error).__name__}), and what was not checked is not returned. "
            "Mend the check, or take it out of the settings on purpose."
        ) from None
    try:
        if not isinstance(found, Outcome):
            raise TypeError(f"got {type(found).__name__}")
        return Outcome.model_validate(found.model_dump(warnings=False))
    except (TypeError, ValidationError) as error:
        raise SafetyError(
            f"The safety check {name} gave no outcome that makes sense ({str(error).splitlines()[0]}), and what was not "
            "checked is not returned. It has to return a lienzo.safety.Outcome."
        ) from None
