"""Importing is light, and what is promised by name is there."""

import subprocess
import sys

import pytest

import lienzo

HEAVY = {
    "torch",
    "numpy",
    "PIL",
    "pydantic",
    "safetensors",
    "tokenizers",
    "rich",
    "huggingface_hub",
    "diffusers",
    "transformers",
}


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_importing_loads_nothing_heavy() -> None:
    assert not loaded_after("import lienzo") & HEAVY


def test_no_reference_library_is_needed_to_make_pictures() -> None:
    assert not loaded_after("import lienzo.studio, lienzo.compat") & {
        "diffusers",
        "transformers",
        "huggingface_hub",
        "accelerate",
    }


@pytest.mark.parametrize("name", lienzo.__all__)
def test_promised_names_are_there(name: str) -> None:
    assert getattr(lienzo, name).__doc__
    assert name in dir(lienzo)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lienzo.Nothing  # noqa: B018
