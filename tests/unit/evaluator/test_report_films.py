"""Which films of the records are in the page, and how they stand there."""

from flowstill_evaluator.report.media import MAX_BYTES, MAX_FILMS, choose_films
from flowstill_evaluator.report.page import MAX_PAGE_BYTES
from tests.unit.evaluator import synthetic as syn
from tests.unit.evaluator.pages import PIXEL, read
from tests.unit.evaluator.reports import page_of, report_of


def films_of(records, paths, success=False):
    """Films of one arm's episodes that have these paths."""
    lines = [syn.episode("student-draws", "reach-around", i, video=v, success=success) for i, v in enumerate(paths)]
    syn.write_lines(records, lines)
    return choose_films(records, syn.load(records, episodes=len(paths)))


def test_media_stays_inside_the_records_and_within_its_room(records):
    (records.parent / "secret.png").write_bytes(PIXEL)
    (records / "big.mp4").write_bytes(b"0" * (MAX_BYTES + 1))
    (records / "fine.png").write_bytes(PIXEL)
    (records / "note.txt").write_text("no film")
    secret = str(records.parent / "secret.png")
    films = films_of(records, ["../secret.png", "big.mp4", "gone.png", "note.txt", secret, "fine.png", None])
    (film,) = films.shown
    assert [(c.path, c.kind, c.size) for c in film.clips] == [("fine.png", "picture", len(PIXEL))]
    assert (films.size, films.room) == (len(PIXEL), MAX_BYTES)
    assert {rest.why: rest.films for rest in films.left_out} == {
        "the path leaves the records": 2,
        "no room within 6 MiB": 1,
        "not in the records": 1,
        "not of a kind that a browser shows": 1,
    }


def test_no_more_films_than_a_reader_looks_at(records):
    for number in range(MAX_FILMS + 3):
        (records / f"{number}.png").write_bytes(PIXEL)
    films = films_of(records, [f"{number}.png" for number in range(MAX_FILMS + 3)], success=True)
    assert len(films.shown) == MAX_FILMS
    assert [(rest.why, rest.films) for rest in films.left_out] == [("more than 8 films", 3)]


def test_the_largest_evaluation_makes_a_page_of_bearable_size(tmp_path):
    tasks = [f"{number:03d}-" + "task" * 31 for number in range(100)]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=2)
    syn.write_lines(records, [e | {"video": "film.mp4"} for e in syn.read_lines(records)])
    (records / "film.mp4").write_bytes(b"0" * MAX_BYTES)
    page = page_of(records, tasks=tasks, episodes=2)
    assert MAX_BYTES < len(page.encode()) <= MAX_PAGE_BYTES


def test_a_film_of_both_arms_is_shown_once_and_says_so(records):
    (records / "both.mp4").write_bytes(b"film")
    lines = syn.read_lines(records)
    failed = next(e["episode"] for e in lines if e["arm"] == "student-draws" and not e["success"])
    filmed = ("student-draws", "teacher@10")
    syn.write_lines(
        records,
        [e | {"video": "both.mp4" if e["episode"] == failed and e["arm"] in filmed else None} for e in lines],
    )
    reader, text = read(page_of(records))
    assert reader.tags.count("video") == 1
    assert "student-draws (left) failed (contact) after 37 steps teacher@10 (right) succeeded" in text
    assert f"episode {failed}, seed {1000 + failed}" in text


def test_films_of_one_arm_each_stand_side_by_side(records):
    for name in ("left.mp4", "right.mp4"):
        (records / name).write_bytes(name.encode())
    lines = syn.read_lines(records)
    failed = next(e["episode"] for e in lines if e["arm"] == "student-draws" and not e["success"])
    paths = {("student-draws", failed): "left.mp4", ("teacher@10", failed): "right.mp4"}
    syn.write_lines(records, [e | {"video": paths.get((e["arm"], e["episode"]))} for e in lines])
    (film,) = report_of(records).films.shown
    assert [(c.path, [side.arm for side in c.sides]) for c in film.clips] == [
        ("left.mp4", ["student-draws"]),
        ("right.mp4", ["teacher@10"]),
    ]


def test_the_tasks_take_turns_in_films_of_failures(tmp_path):
    tasks = ["a", "b"]
    records = syn.write_records(tmp_path / "r", tasks=tasks, episodes=60, rates={"student-draws": 0.5})
    lines = syn.read_lines(records)
    for e in lines:
        e["video"] = f"{e['task']}-{e['episode']}.png" if e["arm"] == "student-draws" else None
        if e["video"]:
            (records / e["video"]).write_bytes(PIXEL)
    syn.write_lines(records, lines)
    films = report_of(records, tasks=tasks, episodes=60).films
    assert [film.task for film in films.shown] == ["a", "b"] * 4
    assert not any(side.success for film in films.shown for clip in film.clips for side in clip.sides)
