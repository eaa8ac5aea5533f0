"""What captions allow, and what is drawn from them.

The rule: a caption that names a side ("left", "derecha"), a turning sense or something written forbids mirroring its
picture; one that names a side, an edge or a place ("top", "esquina") forbids moving the crop, which then stays centred.
All captions of a picture count, since each describes the same picture. The test knows English and Spanish words and
is careful: "all right" forbids mirroring too.
"""

import re
from collections.abc import Sequence

import torch
from torch import Generator

WORD = re.compile(r"[^\W\d_]+")


def vocabulary(text: str) -> frozenset[str]:
    """The words of a list."""
    return frozenset(text.split())


SIDES = vocabulary(
    """left right leftmost rightmost leftward leftwards rightward rightwards clockwise counterclockwise anticlockwise east
    west eastern western lefthand righthand
    izquierda izquierdas izquierdo izquierdos derecha derechas derecho derechos zurdo zurda diestro diestra horario
    antihorario oeste"""
)
WRITING = vocabulary(
    """text texts letter letters lettering word words writing written writes reads says sign signs logo logos wordmark
    number numbers numeral digit digits label labels labelled labeled caption font handwriting banner clock
    texto textos letra letras palabra palabras escrito escrita escritos escritas escritura lee dice cartel carteles letrero
    letreros rótulo rotulo logotipo logotipos número números numero numeros dígito dígitos digito digitos etiqueta etiquetas
    pancarta reloj"""
)
PLACES = vocabulary(
    """top bottom upper lower above below under over corner corners edge edges border borders side sides north south
    arriba abajo superior inferior encima debajo sobre bajo esquina esquinas borde bordes lado lados norte sur"""
)
QUOTED = re.compile(r'["“”«»„]')


def words(text: str) -> list[str]:
    """Lower-case words, letters only."""
    return WORD.findall(text.lower())


def allows_flip(captions: Sequence[str]) -> bool:
    """Whether a picture may be mirrored and its captions stay true."""
    return not any(QUOTED.search(text) or not (SIDES | WRITING).isdisjoint(words(text)) for text in captions)


def allows_crop(captions: Sequence[str]) -> bool:
    """Whether a crop may lie elsewhere than in the middle and the captions stay true."""
    return all((SIDES | PLACES).isdisjoint(words(text)) for text in captions)


def shuffled(caption: str, keep: int, generator: Generator) -> str:
    """The parts between commas in another order; the first `keep` stay in front."""
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    rest = tags[keep:]
    order = torch.randperm(len(rest), generator=generator).tolist()
    return ", ".join([*tags[:keep], *(rest[i] for i in order)])
