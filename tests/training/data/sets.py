"""Small sets of pictures on the disk, made by the libraries that people make them with."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """Smooth and colourful, another one for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def folder(root: Path, count: int = 3, *, size: tuple[int, int] = (48, 48), first: int = 0) -> Path:
    """Pictures with captions beside them."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (root / f"p{i:02}.png").write_bytes(encoded(picture(i, *size)))
        (root / f"p{i:02}.txt").write_text(f"pattern {i}\n", encoding="utf-8")
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def laion_row(key: str, **changes: Any) -> dict[str, Any]:
    """A row as img2dataset writes it (version 1.47: `key`, `status`, sizes, digest), with LAION's columns saved along."""
    return {
        "similarity": 0.31, "AESTHETIC_SCORE": 5.5, "pwatermark": 0.1, "punsafe": 0.01, "LICENSE": "?",
        "caption": f"a caption of {key}", "url": f"https://pictures.example/{key}.jpg", "key": key, "status": "success",
        "error_message": None, "width": 48, "height": 48, "original_width": 480, "original_height": 480, "exif": "{}",
        "sha256": "0" * 64, **changes,
    }  # fmt: skip


def img2dataset(root: Path, rows: list[dict[str, Any]], layout: str, *, first: int = 0) -> Path:
    """One shard as img2dataset writes it with `output_format` "webdataset" or "files"."""
    import pyarrow
    from pyarrow import parquet

    root.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "00000.parquet")
    (root / "00000_stats.json").write_text(json.dumps({"count": len(rows)}), encoding="utf-8")
    members = {}
    for i, row in enumerate(rows):
        if row["status"] == "success":
            key = row["key"]
            members[f"{key}.jpg"] = encoded(picture(first + i), "JPEG")
            members[f"{key}.json"] = json.dumps(row, indent=4).encode()
            members[f"{key}.txt"] = str(row["caption"]).encode()
    if layout == "webdataset":
        tar(root / "00000.tar", members)
    else:
        (root / "00000").mkdir()
        for name, data in members.items():
            (root / "00000" / name).write_bytes(data)
    return root
