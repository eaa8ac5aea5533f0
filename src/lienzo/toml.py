"""TOML files that people write: read whole, told apart from what they are not, and their mistakes explained."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lienzo.errors import ConfigError, nearest


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a file.

    Args:
        what: the file is, as a sentence begins with it.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what} {path} cannot be read: it is no UTF-8 text.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from None


EXPECTED = {
    "model_type": "expected a section, a table of settings",
    "dict_type": "expected a table of settings",
    "path_type": "expected a path, a text in quotation marks",
    "string_type": "expected a text in quotation marks",
    "tuple_type": 'expected a list, say ["this", "that"]',
}
"""Where pydantic's words are Python's."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Pydantic's findings as sentences: which setting, what was got, what is allowed."""
    lines = []
    for found in error.errors(include_url=False):
        name, got = ".".join(map(str, found["loc"])), found["input"]
        if found["type"] == "extra_forbidden":
            lines.append(
                f"{name}: no such setting. {nearest(str(found['loc'][-1]), _fields(model, found['loc'][:-1]))}"
            )
        elif found["type"] == "missing":
            lines.append(f"{name}: is missing; it has no default.")
        elif found["type"] == "literal_error" and isinstance(got, str):
            allowed = [word.strip("' ") for word in found["ctx"]["expected"].replace(" or ", ", ").split(", ")]
            lines.append(f"{name}: got {got!r}; there is no such choice. {nearest(got, allowed)}")
        elif found["type"] == "value_error" and isinstance(got, Mapping):  # of settings that do not go together
            lines.append(f"{name}: {found['ctx']['error']}." if name else f"{found['ctx']['error']}.")
        else:
            said = str(found["ctx"]["error"]) if found["type"] == "value_error" else found["msg"]
            said = EXPECTED.get(found["type"], said)
            shown = repr(got)
            lines.append(
                f"{name}: got {shown if len(shown) <= 80 else shown[:77] + '...'}; {said}." if name else f"{said}."
            )
    return "\n".join(lines)


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The settings of the section that a path leads to."""
    for step in path:
        field = model.model_fields.get(str(step))
        inner = _section(field.annotation) if field else None
        model = inner or model
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for part in get_args(annotation) if (s := _section(part))), None) if get_origin(annotation) else None
