"""One sha256 over what a dataset says, whatever the bytes that say it.

Two recordings of the same demonstrations differ in bytes: ``datasets`` writes a fingerprint into the parquet
file's footer, another one each time, and LeRobot writes the keys of ``stats.json`` in the order of a set.
Here every table counts by its column names and values, and every JSON file by its value.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet


def values(path: Path) -> Any:
    """What a JSON or parquet file says: the JSON value, or the columns of the table as ``[name, values]``.

    Raises:
        ValueError: the file is neither.
    """
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
        return [[name, table[name].to_pylist()] for name in table.column_names]
    raise ValueError(f"{path} is neither JSON nor parquet: a dataset without videos has nothing else")


def content_digest(folder: Path) -> str:
    """Digest of the names and values of all files below ``folder``, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # Images are bytes, which JSON lacks.
        entry = [path.relative_to(folder).as_posix(), values(path)]
        digest.update(json.dumps(entry, sort_keys=True, default=bytes.hex).encode() + b"\n")
    return digest.hexdigest()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="+", type=Path)
    for folder in parser.parse_args().dataset:
        print(content_digest(folder), folder.name)


if __name__ == "__main__":
    main()
