"""How folders that were read back are found and compared."""

from pathlib import Path

BIG = 20 * 2**20
KEY = "sha256:" + "b" * 64


def cache(tmp_path: Path) -> Path:
    return tmp_path / "work" / "cache"


def same(one: Path, other: Path) -> bool:
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    return names == {p.relative_to(other) for p in other.rglob("*") if p.is_file()} and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )
