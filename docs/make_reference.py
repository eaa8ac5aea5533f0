"""Write docs/reference from the source: `make docs`. A test checks that the committed pages are current.

Python's page is read from the syntax tree, so it is the same on every version of Python; the other pages import lienzo.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from lienzo import errors
from lienzo.cli import lienzo
from lienzo.cli.generate import OPTIONS
from lienzo.pipeline.request import Request, in_words
from lienzo.training.config import DENOISERS, KINDS, OF_KINDS, Recipe
from lienzo.training.data import DataConfig

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
OUT = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/make_reference.py: change the source and run `make docs`. -->\n"
WIDTH = 100
MODULES = (
    "lienzo",
    "lienzo.weights",
    "lienzo.weights.adapters",
    "lienzo.pipeline.request",
    "lienzo.pipeline.generate",
    "lienzo.provenance.metadata",
    "lienzo.provenance.keys",
    "lienzo.provenance.certificates",
    "lienzo.provenance.credentials",
    "lienzo.provenance.timestamps",
    "lienzo.provenance.pkcs11",
    "lienzo.provenance.sealing",
    "lienzo.provenance.prompts",
    "lienzo.provenance.hpke",
    "lienzo.provenance.bounded",
    "lienzo.safety",
    "lienzo.safety.checker",
    "lienzo.safety.simulation",
    "lienzo.safety.folding",
    "lienzo.safety.measure",
    "lienzo.provenance.log.merkle",
    "lienzo.provenance.log.checkpoint",
    "lienzo.provenance.log.proofs",
    "lienzo.provenance.log.store",
    "lienzo.provenance.log.audit",
    "lienzo.provenance.log.export",
    "lienzo.provenance.detect",
    "lienzo.server.access",
    "lienzo.server.oidc",
    "lienzo.server.limits",
    "lienzo.server.audit",
    "lienzo.diffusion.schedule",
    "lienzo.diffusion.grids",
    "lienzo.diffusion.prediction",
    "lienzo.diffusion.guidance",
    "lienzo.diffusion.samplers",
    "lienzo.diffusion.loss",
    "lienzo.trainer",
    "lienzo.training.recipes",
    "lienzo.training.data",
    "lienzo.models.bundle",
    "lienzo.models.tokenizer",
    "lienzo.models.clip",
    "lienzo.models.clip_vision",
    "lienzo.models.inception",
    "lienzo.models.unet",
    "lienzo.models.vae",
    "lienzo.nn.lora",
    "lienzo.weights.clip",
    "lienzo.weights.inception",
    "lienzo.weights.parts",
    "lienzo.gallery",
    "lienzo.evaluation.scores",
    "lienzo.evaluation.metrics",
    "lienzo.evaluation.resampling",
    "lienzo.evaluation.features",
    "lienzo.evaluation.prompts",
    "lienzo.evaluation.report",
    "lienzo.evaluation.bias",
    "lienzo.evaluation.transparency",
    "lienzo.cards",
    "lienzo.images",
    "lienzo.rng",
    "lienzo.memory",
)
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Warns")
RULES = """\
Across fields: a `mask` needs an `init`, `strength` needs an `init`, `soft_mask` needs a `mask`; `sigmas` and `grid` exclude each
other; `eta` is for `ddim` and `order` for `unipc`; width times height is at most 37,748,736; of `guidance_interval` the first is
below the second. Whatever is not allowed is a `RequestError` that says what is.
"""


def pages() -> dict[str, str]:
    """File name -> content."""
    made = {
        "python.md": python_page(), "cli.md": cli_page(), "request.md": request_page(), "recipe.md": recipe_page(),
        "errors.md": errors_page(),
    }  # fmt: skip
    return {name: NOTE + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n" for name, text in made.items()}


# --- Python -----------------------------------------------------------------------------------------------------------


def python_page() -> str:
    contents = [f"- [`{name}`](#{name.replace('.', '')})" for name in MODULES]
    parts = ["# Python", "The names meant for use, module by module.", "\n".join(contents)]
    seen: set[str] = set()
    for name in MODULES:
        tree = parsed(name)
        parts += [f"## {name}", described(ast.get_docstring(tree))]
        for public in names(tree):
            if public not in seen:  # `lienzo` gathers what its modules define
                parts += documented(public, name)
        seen |= set(names(tree)) if name == "lienzo" else set()
    return "\n\n".join(part for part in parts if part)


def parsed(module: str) -> ast.Module:
    path = SOURCE / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))


def names(tree: ast.Module) -> list[str]:
    """`__all__`, else everything public that is defined there."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            found: list[str] = ast.literal_eval(node.value)
            return found
    return [name for node in tree.body for name in defined(node) if not name.startswith("_")]


def defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def documented(name: str, module: str) -> list[str]:
    """Heading, signature and docstring of a name, wherever it is defined; nothing if it has no docstring."""
    tree = parsed(module)
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if name in defined(node):
            if isinstance(node, ast.ClassDef):
                return class_entry(node)
            if isinstance(node, ast.FunctionDef):
                return function_entry(node)
            return constant_entry(name, node, following)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return documented(name, node.module)
    raise LookupError(f"{module} names {name}, which is not to be found there")


def class_entry(node: ast.ClassDef) -> list[str]:
    text = ast.get_docstring(node)
    if not text:
        return []
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [f"### class {node.name}" + (f"({bases})" if bases else ""), described(text)]
    lines = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign) and is_field(item)]
    fields = [line.removesuffix(" = field(repr=False)") for line in lines]
    if fields and "BaseModel" not in bases:
        parts.append(fenced("\n".join(fields)))
    for item in methods(node):
        parts += method_entry(node, item)
    return parts


def is_field(item: ast.AnnAssign) -> bool:
    return not ast.unparse(item.target).startswith("_") and "ClassVar" not in ast.unparse(item.annotation)


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and ast.get_docstring(item):
            decorators = [ast.unparse(decorator) for decorator in item.decorator_list]
            if (not item.name.startswith("_") or item.name == "__call__") and "overload" not in decorators:
                yield item


def method_entry(owner: ast.ClassDef, node: ast.FunctionDef) -> list[str]:
    kinds = [ast.unparse(decorator) for decorator in node.decorator_list]
    if "property" in kinds or "cached_property" in kinds:
        return [f"#### {owner.name}.{node.name}", described(ast.get_docstring(node))]
    return [f"#### {owner.name}.{node.name}()", fenced(signature(node)), described(ast.get_docstring(node))]


def function_entry(node: ast.FunctionDef) -> list[str]:
    text = ast.get_docstring(node)
    return [f"### {node.name}()", fenced(signature(node)), described(text)] if text else []


def constant_entry(name: str, node: ast.stmt, following: ast.stmt | None) -> list[str]:
    """A constant is documented by the string that follows it."""
    value = following.value if isinstance(following, ast.Expr) else None
    if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
        return []
    text = ast.unparse(node)
    return [f"### {name}", fenced(text) if len(text) <= WIDTH else "", described(inspect.cleandoc(value.value))]


def signature(node: ast.FunctionDef) -> str:
    """As it would be written, one argument a line where it is long."""
    bare = ast.FunctionDef(
        name=node.name, args=node.args, body=[ast.Expr(ast.Constant(...))], decorator_list=[], returns=node.returns,
        type_comment=None, type_params=[], lineno=0, col_offset=0,
    )  # fmt: skip
    head, _, rest = ast.unparse(bare).splitlines()[0].removesuffix(":").partition("(")
    inside, _, result = rest.rpartition(")")
    arguments = [re.sub(r"^(\w+: [^=]+)=", r"\1 = ", argument) for argument in split_arguments(inside)]
    line = f"{head}({', '.join(arguments)}){result}"
    return line if len(line) <= WIDTH else f"{head}(\n" + "".join(f"    {a},\n" for a in arguments) + f"){result}"


def split_arguments(text: str) -> list[str]:
    """At the commas outside brackets and quotes."""
    found, depth, quoted, start = [], 0, False, 0
    for i, c in enumerate(text):
        quoted ^= c == "'"
        depth += 0 if quoted else (c in "([{") - (c in ")]}")
        if c == "," and depth == 0 and not quoted:
            found.append(text[start:i].strip())
            start = i + 1
    return [*found, text[start:].strip()]


# --- docstrings -------------------------------------------------------------------------------------------------------


def described(text: str | None) -> str:
    """A docstring as markdown: sections become lists, indented blocks and doctests become code."""
    blocks = re.split(r"\n\s*\n", (text or "").strip())
    return "\n\n".join(block(part) for part in blocks if part.strip())


def block(text: str) -> str:
    head, *rest = text.splitlines()
    if head.rstrip(":") in SECTIONS and head.endswith(":"):
        return f"**{head.rstrip(':')}**\n\n" + entries(inspect.cleandoc("\n" + "\n".join(rest)))
    if text.startswith(">>>"):
        return fenced(text, "pycon")
    if text.startswith(("    ", "├", "└", "|")) or any(line.startswith(("├", "└")) for line in rest):
        return (
            text
            if text.startswith("|")
            else fenced(inspect.cleandoc("\n" + text) if text.startswith(" ") else text, "text")
        )
    return text


def entries(text: str) -> str:
    """`name: meaning` lines with their continuations as a list; anything else as it is."""
    lines: list[str] = []
    for line in text.splitlines():
        found = re.match(r"([\w*][\w*, ]*): (.*)", line)
        if line.startswith(" "):
            lines.append(f"  {line.strip()}")
        elif found:
            lines.append(f"- `{found[1]}`: {found[2]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"


# --- the other pages --------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """`--help` of every command."""
    parts = ["# Command line", "What `--help` says. `python -m lienzo` is the same as `lienzo`."]
    for path, command, context in commands("lienzo", lienzo, None):
        parts += [f"## {path}", fenced(helped(command, context))]
    return "\n\n".join(parts)


def commands(
    path: str, command: click.Command, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """A command and those below it, with what is typed for them."""
    name = path.rpartition(" ")[2]
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    yield path, command, context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(f"{path} {inner}", found, context)


def helped(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def request_page() -> str:
    schema = Request.model_json_schema()
    rows = ["| field | type | where not given | option | meaning |", "|---|---|---|---|---|"]
    for name, field in schema["properties"].items():
        info = Request.model_fields[name]
        default = "random" if info.default_factory else json.dumps(info.default)
        meaning = info.description or ""
        rows.append(f"| `{name}` | {in_words(field)} | {default} | `{OPTIONS[name]}` | {meaning} |")
    intro = (
        "The fields of `lienzo.Request`. `null` means: as the model has it, or not at all. What each is for is told in "
        "[Settings](../settings.md)."
    )
    return "\n\n".join(
        [
            "# Request", intro, "\n".join(rows), RULES, "## JSON Schema",
            "An input picture is written as the digest of its pixels and its size; the pixels travel beside the request.",
            fenced(json.dumps(schema, indent=2, sort_keys=True), "json"),
        ]
    )  # fmt: skip


def recipe_page() -> str:
    """Every section and setting of a recipe."""
    schema = Recipe[DataConfig].model_json_schema()
    named: dict[str, list[str]] = {}
    for name, field in schema["properties"].items():
        for definition in re.findall(r'"#/\$defs/(\w+)"', json.dumps(field)):
            named.setdefault(definition, []).append(name)
    intro = (
        "What a recipe for `lienzo train` can say: TOML, a table a section; only `kind` and `data` have to be there. How to use it "
        "is told in [Train a model](../howto/train-a-model.md). `none` stands for null, for which TOML has no word. A setting "
        "that the kind of recipe would not obey is an error."
    )
    parts = ["# Recipe", intro, "`kind` is one of " + ", ".join(f"`{kind}`" for kind in KINDS) + "."]
    for definition, sections in named.items():
        parts += ["## " + ", ".join(sections), *(Recipe.model_fields[name].description or "" for name in sections)]
        parts.append(settings_table(schema["$defs"][definition]["properties"], OF_KINDS.get(sections[0], {})))
    parts += ["## A source", "What `data.sources` lists: a path, or a table of these."]
    return "\n\n".join([*parts, settings_table(schema["$defs"]["Source"]["properties"], {})])


def settings_table(fields: dict[str, Any], kinds: Mapping[str, tuple[str, ...]]) -> str:
    rows = ["| setting | type | where not given | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "has to be given"
        only = f" Of {', '.join(kinds[name])}." if kinds.get(name, DENOISERS) != DENOISERS else ""
        rows.append(f"| `{name}` | {typed(field)} | {default} | {field['description']}{only} |")
    return "\n".join(rows)


def typed(schema: dict[str, Any]) -> str:
    """What a setting's JSON Schema allows."""
    match schema:
        case {"anyOf": options}:
            return " or ".join(dict.fromkeys(typed(option) for option in options if option.get("type") != "null"))
        case {"enum": choices}:
            return ", ".join(f"`{choice}`" for choice in choices)
        case {"$ref": _}:
            return "a source"
        case {"type": "object"}:
            return "a table"
        case {"prefixItems": items}:
            return f"{len(items)} of: {typed(items[0])}"
        case {"type": "array", "items": item}:
            return f"a list of: {typed(item)}"
        case _:
            return in_words(schema)


def errors_page() -> str:
    tree = parsed("lienzo.errors")
    parts = [
        "# Errors", described(ast.get_docstring(tree)),
        "What to do about each is told in [Find out what went wrong](../howto/troubleshooting.md).",
        "| error | exit code of the command line | meaning |\n|---|---|---|\n" + "\n".join(map(error_row, error_classes())),
    ]  # fmt: skip
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and "Attributes:" in (ast.get_docstring(node) or ""):
            parts += class_entry(node)
    return "\n\n".join(parts)


def error_classes() -> list[type[errors.LienzoError]]:
    found = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LienzoError)
    ]
    return [value for value in found if value.__module__ == errors.__name__]


def error_row(error: type[errors.LienzoError]) -> str:
    codes = {errors.NonFiniteError: 1, errors.UnknownKeyError: 1, errors.ProofError: 3}
    code = codes.get(error, 2)
    return f"| `{error.__name__}` | {code} | {(error.__doc__ or '').splitlines()[0]} |"


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, text in pages().items():
        (OUT / name).write_text(text, encoding="utf-8")
        print(OUT / name)


if __name__ == "__main__":
    main()
