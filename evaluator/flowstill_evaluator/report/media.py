"""Films and pictures of episodes, embedded so that the page needs no other file."""

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from flowstill_evaluator.evidence import Episode, Evidence
from flowstill_evaluator.report.document import Clip, Ending, Film, Films, LeftOut

MAX_BYTES = 6 * 2**20
MAX_FILMS = 8
_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}


@dataclass
class _Shelf:
    """What was taken so far, and what was not."""

    root: Path
    shown: list[Film] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    size: int = 0


def choose_films(records: Path, evidence: Evidence) -> Films:
    """Which films of the records the page holds: the student's failures, the tasks taking turns, then the baseline's.

    Where no film shows a failure, the others. At most :data:`MAX_FILMS` films, :data:`MAX_BYTES` together; no path that
    leaves the records folder is followed.
    """
    shelf = _Shelf(records.resolve())
    pairs = _pairs(evidence)
    failed = [pair for pair in pairs if any(not e.success for e in pair)]
    for pair in failed or pairs:
        _take(shelf, pair)
    left_out = [LeftOut(why=why, films=films) for why, films in shelf.left_out.items()]
    return Films(shown=shelf.shown, left_out=left_out, size=shelf.size, room=MAX_BYTES)


def data_uris(records: Path, films: Films) -> dict[str, str]:
    """The files that the page holds, by path, as addresses that hold them."""
    return {clip.path: data_uri(records / clip.path) for film in films.shown for clip in film.clips}


def data_uri(path: Path) -> str:
    """A film or picture as an address that holds it."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{_TYPES[path.suffix]};base64,{data}"


def _pairs(evidence: Evidence) -> list[list[Episode]]:
    """The filmed episodes of every initial state, the student's before the baseline's.

    In the order of the student's failures, the baseline's, the rest; within each the tasks take turns.
    """
    arms = (evidence.expected.served, evidence.expected.baseline)
    filmed = [[e for e in evidence.episodes.get(arm, ()) if e.video] for arm in arms]
    pairs: dict[tuple[str, int], list[Episode]] = {}
    for episode in chain.from_iterable(filmed):
        pairs.setdefault((episode.task, episode.episode), []).append(episode)
    failed = chain.from_iterable(_turns(e for e in episodes if not e.success) for episodes in filmed)
    rest = chain.from_iterable(_turns(e for e in episodes if e.success) for episodes in filmed)
    return [pairs[key] for key in dict.fromkeys((e.task, e.episode) for e in chain(failed, rest))]


def _turns(episodes: Iterable[Episode]) -> list[Episode]:
    turn: Counter[str] = Counter()
    ranked = []
    for episode in episodes:
        turn[episode.task] += 1
        ranked.append((turn[episode.task], episode))
    return [episode for _, episode in sorted(ranked, key=lambda pair: pair[0])]


def _take(shelf: _Shelf, pair: Sequence[Episode]) -> None:
    paths = list(dict.fromkeys(str(e.video) for e in pair))
    if len(shelf.shown) == MAX_FILMS:
        shelf.left_out[f"more than {MAX_FILMS} films"] += 1
        return
    for path in paths:
        if why := _unfit(shelf.root, path):
            shelf.left_out[why] += 1
    paths = [path for path in paths if not _unfit(shelf.root, path)]
    size = sum((shelf.root / path).stat().st_size for path in paths)
    if not paths:
        return
    if shelf.size + size > MAX_BYTES:
        shelf.left_out[f"no room within {MAX_BYTES // 2**20} MiB"] += 1
        return
    shelf.size += size
    clips = [_clip(shelf.root, path, [e for e in pair if e.video == path]) for path in paths]
    shelf.shown.append(Film(task=pair[0].task, episode=pair[0].episode, seed=pair[0].seed, clips=clips))


def _clip(root: Path, path: str, sides: Sequence[Episode]) -> Clip:
    return Clip(
        path=path,
        kind="video" if _TYPES[Path(path).suffix].startswith("video/") else "picture",
        size=(root / path).stat().st_size,
        sides=[Ending(arm=e.arm, success=e.success, failure=e.failure, steps=e.steps) for e in sides],
    )


def _unfit(root: Path, path: str) -> str | None:
    """Why a browser cannot show it, or why it must not be read."""
    place = (root / path).resolve()
    if root not in place.parents:
        return "the path leaves the records"
    if place.suffix not in _TYPES:
        return "not of a kind that a browser shows"
    return None if place.is_file() else "not in the records"
