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
    """One embedded episode."""

    episode: Episode
    is_video: bool
    data: str


def embed(records: Path, episodes: Sequence[Episode]) -> list[Clip]:
    """The first clips that exist and fit; a path that leaves the records folder is not followed."""
    clips: list[Clip] = []
    room, root = MAX_BYTES, records.resolve()
    for episode in episodes:
        path = (root / episode.video).resolve() if episode.video else None
        if path is None or root not in path.parents or path.suffix not in _TYPES or not path.is_file():
            continue
        size = path.stat().st_size
        if size > room or len(clips) == MAX_CLIPS:
            continue
        room -= size
        kind = _TYPES[path.suffix]
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        clips.append(Clip(episode, kind.startswith("video/"), f"data:{kind};base64,{data}"))
    return clips
