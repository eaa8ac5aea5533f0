"""What the data is, in figures: for whoever trains on it, and for the summary of training content that Article 53(1)(d) of
the EU AI Act asks providers of general-purpose models for. It counts and lists; whether that satisfies a law, it cannot say.
"""

from collections import Counter
from collections.abc import Iterable
from html import escape
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from lienzo import __version__
from lienzo.training.data.dataset import SCORES, Dataset, Record, score
from lienzo.training.data.hashes import near_copies
from lienzo.training.data.language import PEOPLE, language, terms
from lienzo.training.data.sources import Row

SIDES = (64, 128, 256, 512, 768, 1024, 2048)
"""Where the histogram of shorter sides is divided."""
NEAR = 6
"""Bits of the 128 in which near duplicates of the report differ at most."""
MOST_TERMS = 50
LICENCES = ("LICENSE", "license", "licence", "licencia")
LINKS = ("url", "URL")
ESTIMATE = "by counting common words: an estimate"


def report(dataset: Dataset) -> dict[str, Any]:
    """The whole report as what JSON can hold. Class pictures are counted with the others."""
    records = (*dataset.records, *dataset.prior)
    copies = near_copies([record.hash for record in records], NEAR)
    near = [
        {"key": records[i].key, "of": records[of].key, "bits": (records[i].hash ^ records[of].hash).bit_count()}
        for i, of in sorted(copies.items())
    ]
    exact = [s for s in dataset.skipped if s.reason == "duplicate"]
    config = dataset.config
    sources = [*config.sources, *([config.prior] if config.prior else [])]
    return {
        "lienzo": __version__,
        "digest": dataset.digest,
        "pictures": len(records),
        "notes": list(dataset.notes),
        "sources": [
            {
                "path": str(source.path),
                "kinds": list(kinds),
                "pictures": sum(record.source is source for record in records),
                "repeats": source.repeats,
                "prior": source is config.prior,
            }
            for source, kinds in zip(sources, dataset.kinds, strict=True)
        ],
        "sizes": _sizes(records),
        "buckets": [
            {"width": bucket[0], "height": bucket[1], "pictures": count}
            for bucket, count in sorted(Counter(record.bucket for record in records).items())
        ],
        "captions": _captions(records),
        "terms": _top(Counter(word for r in records for word in _terms(r)), MOST_TERMS),
        "people": {
            "pictures": sum(not PEOPLE.isdisjoint(_terms(r)) for r in records),
            "terms": _top(Counter(word for r in records for word in _terms(r) & PEOPLE), MOST_TERMS),
            "how": "captions with words for people, English and Spanish: an estimate",
        },
        "licences": _given(_first(r.row, LICENCES) for r in records),
        "origins": _given(_site(_first(r.row, LINKS)) for r in records),
        "scores": _scores(records),
        "duplicates": {
            "exact": [{"key": s.key, "detail": s.detail} for s in exact],
            "near": near,
            "how": f"exact: equal pixels, left out; near: within {NEAR} of 128 bits of a difference hash, kept "
            "unless near_duplicates is set",
        },
        "skipped": {
            "count": len(dataset.skipped),
            "reasons": dict(Counter(s.reason for s in dataset.skipped).most_common()),
            "list": [{"key": s.key, "reason": s.reason, "detail": s.detail} for s in dataset.skipped],
        },
    }


def _sizes(records: Iterable[Record]) -> dict[str, Any]:
    shapes: list[tuple[int, int]] = [(r.width, r.height) for r in records]
    shorter: list[int] = [min(shape) for shape in shapes]
    smallest, largest = min(shapes, key=_area), max(shapes, key=_area)
    edges = (0, *SIDES)
    bins = Counter(max(edge for edge in edges if edge <= side) for side in shorter)
    names = {
        low: f"{low} to {high - 1}" if high else f"{low} and more"
        for low, high in zip(edges, (*edges[1:], None), strict=True)
    }
    return {
        "shorter_side": [{"pixels": names[edge], "pictures": bins[edge]} for edge in edges if bins[edge]],
        "smallest": [*smallest],
        "largest": [*largest],
        "median_megapixels": round(median(w * h for w, h in shapes) / 1e6, 4),
        "shapes": {
            "portrait": sum(w < h for w, h in shapes),
            "square": sum(w == h for w, h in shapes),
            "landscape": sum(w > h for w, h in shapes),
        },
    }


def _area(shape: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return shape[0] * shape[1], shape


def _captions(records: Iterable[Record]) -> dict[str, Any]:
    records = list(records)
    texts = [text for record in records for text in record.captions]
    return {
        "captions": len(texts),
        "without": sum(not record.captions for record in records),
        "different": len(set(texts)),
        "mean_words": round(sum(len(text.split()) for text in texts) / len(texts), 1) if texts else 0.0,
        "languages": dict(Counter(language(text) for text in texts).most_common()),
        "languages_how": ESTIMATE,
        "forbid_flipping": sum(not record.flips for record in records),
    }


def _scores(records: Iterable[Record]) -> dict[str, Any]:
    records = list(records)
    found: dict[str, Any] = {}
    for name in SCORES:
        values = [value for record in records if (value := score(record.row, name)) is not None]
        if values:
            found[name] = {"given": len(values), "least": min(values), "median": median(values), "most": max(values)}
    return found


def _terms(record: Record) -> set[str]:
    return {word for text in record.captions for word in terms(text)}


def _top(counts: Counter[str], most: int) -> list[dict[str, Any]]:
    """Of words, in how many pictures; as many at most."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"term": word, "pictures": count} for word, count in ordered[:most]]


def _first(row: Row, columns: Iterable[str]) -> str:
    value = next((row[column] for column in columns if row.get(column)), "")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _site(link: str) -> str:
    try:
        return urlsplit(link).hostname or ""
    except ValueError:
        return ""


def _given(values: Iterable[str]) -> dict[str, Any]:
    counts = Counter(values)
    missing = counts.pop("", 0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"not_given": missing, "given": [{"name": name, "pictures": count} for name, count in ordered]}


# --- as tables --------------------------------------------------------------------------------------------------------

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, heads of columns, rows."""


def tables(found: dict[str, Any], most: int | None = None) -> list[Table]:
    """A report as tables, for people; at most so many rows of each list."""

    def listed(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
        if most is not None and len(rows) > most:
            rest = (f"... and {len(rows) - most:,} more", *("" for _ in heads[1:]))
            rows = [*rows[:most], rest]
        return title, heads, rows

    captions, sizes, people = found["captions"], found["sizes"], found["people"]
    overview: list[tuple[str, ...]] = [
        ("pictures", f"{found['pictures']:,}"),
        ("smallest, largest", "{}x{}, ".format(*sizes["smallest"]) + "{}x{}".format(*sizes["largest"])),
        ("median", f"{sizes['median_megapixels']} megapixels"),
        ("portrait, square, landscape", ", ".join(f"{count:,}" for count in sizes["shapes"].values())),
        (
            "captions",
            f"{captions['captions']:,} ({captions['different']:,} different), {captions['mean_words']} words each",
        ),
        ("pictures without caption", f"{captions['without']:,}"),
        ("captions forbid mirroring", f"{captions['forbid_flipping']:,} pictures"),
        ("captions speak of people", f"{people['pictures']:,} pictures (an estimate)"),
        ("equal pictures left out", f"{len(found['duplicates']['exact']):,}"),
        ("near duplicates", f"{len(found['duplicates']['near']):,}"),
        ("skipped", f"{found['skipped']['count']:,}"),
        ("digest", found["digest"]),
    ]
    pictures = ("", "pictures")
    made: list[Table] = [
        ("Overview", ("", ""), overview),
        listed(
            "Sources",
            ("path", "kind", "pictures", "repeats"),
            [
                (s["path"] + (" (class pictures)" if s["prior"] else ""), ", ".join(s["kinds"]), f"{s['pictures']:,}",
                 str(s["repeats"]))
                for s in found["sources"]
            ],
        ),
        listed("Shorter side in pixels", pictures, _counts(sizes["shorter_side"], "pixels")),
        listed("Buckets", pictures, [(f"{b['width']}x{b['height']}", f"{b['pictures']:,}") for b in found["buckets"]]),
        listed("Languages of captions (an estimate)", ("", "captions"), [(k, f"{n:,}") for k, n in captions["languages"].items()]),
        listed("Licences", pictures, [*_counts(found["licences"]["given"], "name"), _missing(found["licences"])]),
        listed("Where they come from", pictures, [*_counts(found["origins"]["given"], "name"), _missing(found["origins"])]),
        listed(
            "Scores",
            ("", "given", "least", "median", "most"),
            [(k, f"{s['given']:,}", *(f"{s[x]:g}" for x in ("least", "median", "most"))) for k, s in found["scores"].items()],
        ),
        listed("Words in captions", pictures, _counts(found["terms"], "term")),
        listed("Words for people", pictures, _counts(people["terms"], "term")),
        listed("Near duplicates", ("", "of", "bits"), [(n["key"], n["of"], str(n["bits"])) for n in found["duplicates"]["near"]]),
        listed("Skipped, by reason", pictures, [(k, f"{n:,}") for k, n in found["skipped"]["reasons"].items()]),
        listed("Skipped", ("", "reason", "detail"), [(s["key"], s["reason"], s["detail"]) for s in found["skipped"]["list"]]),
    ]  # fmt: skip
    return [table for table in made if table[2]]


def _counts(rows: list[dict[str, Any]], name: str) -> list[tuple[str, ...]]:
    return [(str(row[name]), f"{row['pictures']:,}") for row in rows]


def _missing(given: dict[str, Any]) -> tuple[str, ...]:
    return "(not given)", f"{given['not_given']:,}"


STYLE = """body{font:15px/1.4 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .8rem .15rem 0;border-bottom:1px solid #ddd;
overflow-wrap:anywhere;vertical-align:top}"""


def html(found: dict[str, Any]) -> str:
    """A report as one page that needs nothing else."""
    parts = []
    for title, heads, rows in tables(found):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        parts.append(
            f"<h2>{escape(title)}</h2>\n<table>\n" + (f"<tr>{head}</tr>\n" if any(heads) else "") + f"{body}</table>\n"
        )
    notes = "".join(f"<li>{escape(note)}</li>" for note in found["notes"])
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Training data</title>\n<style>{STYLE}</style>\n'
        f"<h1>Training data</h1>\n<p>Counted by lienzo {escape(found['lienzo'])}. Languages, people and near duplicates are "
        f"estimates.</p>\n<ul>{notes}</ul>\n{''.join(parts)}</html>\n"
    )
