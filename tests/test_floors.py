"""Each floor imports only lower floors; siblings on floor 5 do not import each other."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "lienzo"
FLOORS = {
    "errors": -1,  # the vocabulary of all floors
    "rng": 0, "images": 0, "cards": 0, "config": 0, "memory": 0, "reading": 0, "shares": 0, "toml": 0,
    "diffusion": 1, "nn": 1,
    "models": 2,
    "weights": 3,
    "pipeline": 4,
    "safety": 5, "provenance": 5, "training": 5, "evaluation": 5,
    "studio": 6, "compat": 7, "gallery": 7, "trainer": 7,
    "server": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of lienzo that a file names in its imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "lienzo" else [node.module or ""]
        found |= {n.split(".")[1] for n in names if n.startswith("lienzo.")}
    return found & set(FLOORS)


def test_every_part_has_a_floor() -> None:
    assert {part(path) for path in FILES} - {"__init__"} <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_lower_floors(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    for other in imported(path) - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
