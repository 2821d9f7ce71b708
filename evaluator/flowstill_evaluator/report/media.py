"""Videos and pictures of episodes, embedded so that the page needs no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowstill_evaluator.evidence import Episode

MAX_BYTES = 6 * 2**20
MAX_CLIPS = 8
_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}


@dataclass(frozen=True)
class Clip:
    """One embedded episode; ``paired`` when the film shows the baseline beside the student."""

    episode: Episode
    is_video: bool
    paired: bool
    data: str


def embed(records: Path, episodes: Sequence[Episode]) -> list[Clip]:
    """The first clips that exist and fit, each once; no path that leaves the records folder is followed."""
    clips: list[Clip] = []
    arms = {e.video: {x.arm for x in episodes if x.video == e.video} for e in episodes if e.video}
    seen: set[Path] = set()
    room, root = MAX_BYTES, records.resolve()
    for episode in episodes:
        path = (root / episode.video).resolve() if episode.video else None
        if path is None or root not in path.parents or path.suffix not in _TYPES or not path.is_file() or path in seen:
            continue
        size = path.stat().st_size
        if size > room or len(clips) == MAX_CLIPS:
            continue
        room -= size
        seen.add(path)
        kind = _TYPES[path.suffix]
        paired = len(arms[str(episode.video)]) > 1
        clips.append(Clip(episode, kind.startswith("video/"), paired, data_uri(path)))
    return clips


def data_uri(path: Path) -> str:
    """A film or picture as an address that holds it."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{_TYPES[path.suffix]};base64,{data}"
