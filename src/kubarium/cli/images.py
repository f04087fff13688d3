"""`kubarium image`: what is in the node's store of container images."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.table import Table

from kubarium.base.errors import ConfigError
from kubarium.cli.console import out
from kubarium.cluster import images
from kubarium.cluster.state import StateDirectory


def load(paths: list[Path], tags: list[str], name: str) -> None:
    """Take images in from files."""
    if tags and len(paths) > 1:
        raise ConfigError("--tag names one image: give one file")
    for path in paths:
        for loaded in images.load_images(StateDirectory(name), path, tags):
            out.print(f"loaded {loaded}", markup=False)


def pull(references: list[str], name: str) -> None:
    """Fetch images from their registries."""
    for reference in references:
        found = images.pull_image(StateDirectory(name), reference)
        out.print(f"pulled {found}", markup=False)


def remove(names: list[str], name: str) -> None:
    """Forget images."""
    gone, freed = images.remove_images(StateDirectory(name), names)
    for one in gone:
        out.print(f"removed {one}", markup=False)
    out.print(f"{freed / 1e6:.1f} MB freed", markup=False)


def show(name: str, output: str) -> None:
    """All of them."""
    rows = images.list_images(StateDirectory(name))
    if output == "json":
        found = [
            {
                "name": row.name,
                "imageID": row.image_id,
                "sizeBytes": row.size,
                "origin": row.origin,
                "inUse": row.in_use,
            }
            for row in rows
        ]
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    if output != "text":
        raise ConfigError(f"--output {output!r}: write text or json")
    if not rows:
        out.print("no images: kubarium image load FILE takes one in", markup=False)
        return
    table = Table("NAME", "IMAGE ID", "SIZE", "ORIGIN", "SINCE", box=None, pad_edge=False)
    for row in rows:
        since = datetime.fromtimestamp(row.loaded_at, UTC).strftime("%Y-%m-%d %H:%M")
        origin = f"{row.origin}, in use" if row.in_use else row.origin
        size = f"{row.size / 1e6:.1f} MB"
        table.add_row(row.name, row.image_id[7:19], size, origin, since)
    out.print(table)
