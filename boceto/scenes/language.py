"""The words of both languages that all families share: numbers, colours that agree, articles, lists."""

import unicodedata
from collections.abc import Sequence
from typing import Final

from boceto.scenes.description import Size

NUMBERS_EN: Final = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4"), 5: ("five", "5"), 6: ("six", "6")}
NUMBERS_ES: Final = {2: ("dos", "2"), 3: ("tres", "3"), 4: ("cuatro", "4"), 5: ("cinco", "5"), 6: ("seis", "6")}

# English -> (Spanish singular, plural, feminine)
NOUNS_ES: Final[dict[str, tuple[str, str, bool]]] = {
    "circle": ("círculo", "círculos", False),
    "square": ("cuadrado", "cuadrados", False),
    "triangle": ("triángulo", "triángulos", False),
    "star": ("estrella", "estrellas", True),
    "hexagon": ("hexágono", "hexágonos", False),
    "cross": ("cruz", "cruces", True),
    "server": ("servidor", "servidores", False),
    "laptop": ("portátil", "portátiles", False),
    "phone": ("teléfono", "teléfonos", False),
    "router": ("router", "routers", False),
    "switch": ("switch", "switches", False),
    "firewall": ("cortafuegos", "cortafuegos", False),
    "database": ("base de datos", "bases de datos", True),
    "cloud": ("nube", "nubes", True),
    "user": ("usuario", "usuarios", False),
    "attacker": ("atacante", "atacantes", False),
    "bot": ("bot", "bots", False),
    "block": ("bloque", "bloques", False),
    "transaction": ("transacción", "transacciones", True),
    "step": ("paso", "pasos", False),
    "bar": ("barra", "barras", True),
    "slice": ("sector", "sectores", False),
    "tree": ("árbol", "árboles", False),
    "house": ("casa", "casas", True),
    "car": ("coche", "coches", False),
    "message": ("mensaje", "mensajes", False),
}
# (masculine, feminine, masculine plural, feminine plural)
COLOURS_ES: Final = {
    "red": ("rojo", "roja", "rojos", "rojas"),
    "green": ("verde", "verde", "verdes", "verdes"),
    "blue": ("azul", "azul", "azules", "azules"),
    "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
    "orange": ("naranja", "naranja", "naranjas", "naranjas"),
    "purple": ("morado", "morada", "morados", "moradas"),
    "black": ("negro", "negra", "negros", "negras"),
    "white": ("blanco", "blanca", "blancos", "blancas"),
    "gray": ("gris", "gris", "grises", "grises"),
}
_SIZES_ES: Final[dict[Size, tuple[str, str]]] = {"small": ("pequeño", "pequeña"), "large": ("grande", "grande")}


def a(noun: str) -> str:
    """With its article: "an orange star"."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def plural(noun: str) -> str:
    """ "crosses", "phones"."""
    return noun + ("es" if noun.endswith(("s", "ch")) else "s")


def some(count: int, noun: str, adjective: str = "") -> tuple[str, ...]:
    """ "three red bots" and "3 red bots"; "a red bot" for one."""
    before = f"{adjective} " if adjective else ""
    if count == 1:
        return (a(before + noun),)
    return tuple(f"{number} {before}{plural(noun)}" for number in NUMBERS_EN[count])


def un(noun: str) -> str:
    """With its article in Spanish, from the English noun: "una nube"."""
    word, _, feminine = NOUNS_ES[noun]
    return f"{'una' if feminine else 'un'} {word}"


def el(noun: str) -> str:
    """With the definite article in Spanish, from the English noun."""
    word, _, feminine = NOUNS_ES[noun]
    return f"{'la' if feminine else 'el'} {word}"


def algunos(count: int, noun: str, colour: str = "") -> tuple[str, ...]:
    """ "tres bots rojos" and "3 bots rojos"; "un bot rojo" for one."""
    _, many, feminine = NOUNS_ES[noun]
    after = f" {COLOURS_ES[colour][2 * (count > 1) + feminine]}" if colour else ""
    if count == 1:
        return (f"{un(noun)}{after}",)
    return tuple(f"{number} {many}{after}" for number in NUMBERS_ES[count])


def un_thing(noun: str, colour: str, size: Size = "medium") -> tuple[str, ...]:
    """ "una estrella roja", and with a size "una estrella roja grande" and its variants."""
    word, _, feminine = NOUNS_ES[noun]
    article, tint = ("una" if feminine else "un"), COLOURS_ES[colour][feminine]
    if size == "medium":
        return (f"{article} {word} {tint}",)
    large = _SIZES_ES[size][feminine]
    before = "gran" if size == "large" else large
    return f"{article} {word} {tint} {large}", f"{article} {word} {large} {tint}", f"{article} {before} {word} {tint}"


def listed(parts: Sequence[str], last: str) -> str:
    """ "a, b and c", where `last` is "and" or "y"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def unaccented(text: str) -> str:
    """The text without accents, as people often type it; the tilde of ñ stays."""
    kept = (unicodedata.normalize("NFD", char)[0] if char in "áéíóúü" else char for char in text)
    return "".join(kept)


def conectado(noun: str, word: str = "conectado", count: int = 1) -> str:
    """A Spanish participle that agrees with the English noun: "conectada", "conectados"."""
    ending = "a" if NOUNS_ES[noun][2] else "o"
    return f"{word[:-1]}{ending}{'s' if count > 1 else ''}"


def style_en(scheme: str, background: str) -> tuple[str, ...]:
    """What ends a caption: ", in green on a dark background". Blue and white need not be said; "" is no scheme."""
    tints = {"": ("",), "blue": ("", ", in blue")}.get(scheme, (f", in {scheme}", f", {scheme} colors"))
    grounds = (
        (" on a dark background", ", dark background") if background == "black" else ("", " on a white background")
    )
    return tuple(tint + ground for ground in grounds for tint in tints)


def style_es(scheme: str, background: str) -> tuple[str, ...]:
    """Likewise: ", en verde sobre fondo oscuro"."""
    tint = COLOURS_ES[scheme][0] if scheme else ""
    tints = {"": ("",), "blue": ("", ", en azul")}.get(scheme, (f", en {tint}", f", en color {tint}"))
    grounds = (" sobre fondo oscuro", ", fondo oscuro") if background == "black" else ("", " sobre fondo blanco")
    return tuple(tint + ground for ground in grounds for tint in tints)
