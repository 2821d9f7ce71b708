"""Records of trials that were run elsewhere, on the robot for example: one line a trial, read and checked as a whole.

A folder holds ``trials.jsonl`` (an object a line) or ``trials.csv`` (a header, then a row a trial; an empty cell is no
value), and the logs of joint velocities that its lines name. Every trial of the student has its partner of the
baseline: the same task, and the same name of the pair.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flowstill.api.fields import Moment, NotBlank
from flowstill.artifacts.digests import MANIFEST
from flowstill.artifacts.velocity_logs import read_velocity_log
from flowstill.errors import RecordsRejected

JSONL, CSV = "trials.jsonl", "trials.csv"
ARMS = ("student", "baseline")
NO_CLAMPS = (
    "the trials have no clamped_steps; in every trial, count the control steps whose command had to be clipped to the "
    "robot's limits"
)
NO_VELOCITIES = (
    "the trials have no joint velocities; log them in every control step, and name each trial's file in its velocities"
)
MAX_TRIALS = 200_000
_MAX_BYTES = 256 * 2**20
_MAX_PROBLEMS = 20


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    ours = value in (JSONL, CSV, MANIFEST)
    if path.is_absolute() or ".." in path.parts or str(path) != value or ours or not value.isprintable():
        raise ValueError("it must be a path within the folder, such as velocities/pick-1-student.csv")
    return value


def _as_text(value: Any) -> Any:
    """A number is as good a name as a word."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Label = Annotated[NotBlank, Field(max_length=128)]


class Trial(BaseModel):
    """One trial.

    Attributes:
        task: one of ``spec.evaluation.tasks``.
        pair: name of the pair within the task; its two trials start alike.
        arm: which policy ran.
        success: whether the task was done.
        failure: in a word or two, why not.
        steps: control steps.
        seconds: how long it took.
        clamped_steps: control steps whose command had to be clipped to the robot's limits.
        velocities: path of the log of joint velocities within the folder.
        peak_velocity: greatest speed of each joint, for the reader; no gate looks at it.
        notes: whatever the operator wrote.
        when: the trial began.
        who: ran it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: Label
    pair: Annotated[Label, BeforeValidator(_as_text)]
    arm: Literal["student", "baseline"]
    success: bool
    failure: Label | None = None
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    seconds: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    clamped_steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    velocities: Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_inside)] | None = None
    peak_velocity: Annotated[list[Annotated[float, Field(ge=0.0)]], Field(min_length=1, max_length=64)] | None = None
    notes: Annotated[str, Field(max_length=4000)] | None = None
    when: Moment | None = None
    who: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "Trial":
        if self.success and self.failure is not None:
            raise ValueError("a trial that succeeded has no failure; take one of the two out")
        if self.steps is not None and self.clamped_steps is not None and self.clamped_steps > self.steps:
            raise ValueError(f"{self.clamped_steps} clamped_steps are more than all {self.steps} steps")
        return self


@dataclass(frozen=True)
class Trials:
    """All trials of a folder, in the order of their lines; ``joints`` is empty when none has a log of velocities."""

    folder: Path
    file: str
    trials: tuple[Trial, ...]
    joints: tuple[str, ...] = ()

    @property
    def tasks(self) -> dict[str, list[str]]:
        """The pairs of every task, both in the order of their first line."""
        found: dict[str, dict[str, None]] = {}
        for trial in self.trials:
            found.setdefault(trial.task, {})[trial.pair] = None
        return {task: list(pairs) for task, pairs in found.items()}

    @property
    def files(self) -> list[str]:
        """What belongs to the records: the file of the trials, and the logs that it names."""
        return [self.file, *(trial.velocities for trial in self.trials if trial.velocities is not None)]

    @property
    def lacking(self) -> dict[str, str]:
        """What the trials do not have: the gates that cannot be judged without it → a sentence."""
        lacking = {}
        if any(trial.clamped_steps is None for trial in self.trials):
            lacking["S1, P6"] = NO_CLAMPS
        if not self.joints:
            lacking["S2"] = NO_VELOCITIES
        return lacking


def read_trials(folder: Path) -> Trials:
    """Read a folder of records and check all of it.

    Raises:
        RecordsRejected: naming file, line and fix; the first :data:`_MAX_PROBLEMS` findings at once.
    """
    file = _file_of(folder)
    problems: list[str] = []
    numbered: list[tuple[int, Trial]] = []
    text = _text_of(folder / file)
    for number, value in (_json_lines if file == JSONL else _csv_rows)(text):
        if isinstance(value, str):
            problems.append(f"{file} line {number}: {value}")
            continue
        try:
            numbered.append((number, Trial.model_validate(value, strict=file == JSONL)))
        except ValidationError as error:
            problems += [f"{file} line {number}: {finding}" for finding in _findings(error)]
        if len(numbered) > MAX_TRIALS:
            raise RecordsRejected(f"{folder / file} has more than {MAX_TRIALS:,} trials; push them in parts")
    joints: tuple[str, ...] = ()
    if not problems:
        problems += _together(numbered)
    if not problems:
        joints, problems = _check_logs(folder, numbered)
    if problems or not numbered:
        problems = problems or [f"{file} has no trial"]
        more = [f"and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
        raise RecordsRejected("\n".join([f"{folder}:", *problems[:_MAX_PROBLEMS], *more]))
    return Trials(folder, file, tuple(trial for _, trial in numbered), joints)


def _file_of(folder: Path) -> str:
    there = [name for name in (JSONL, CSV) if (folder / name).is_file()]
    if len(there) == 2:
        raise RecordsRejected(f"{folder} has both {JSONL} and {CSV}; leave one")
    if not there:
        raise RecordsRejected(f"{folder} has neither {JSONL} nor {CSV}; write one line a trial into one of them")
    return there[0]


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecordsRejected(f"{path} is larger than {_MAX_BYTES // 2**20} MiB; push the trials in parts")
        content = path.read_bytes()
    except OSError as error:
        raise RecordsRejected(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecordsRejected(f"{path} line {line}: a byte that is no UTF-8; save the file as UTF-8") from error


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line's number, with the object or what is wrong with it. Only a newline ends a line, in JSON as well."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_each_key_once)
        except (ValueError, RecursionError) as error:
            yield number, f"no JSON object: {error}; write one object a line"
            continue
        yield number, value if isinstance(value, dict) else "no JSON object; write one object a line, in braces"


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the field {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return value


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each row's first line, with the fields that are not empty or what is wrong with the row."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"no CSV: {error}; quote a value with commas or quotes in it, and double its quotes"
            return
        if header is None:
            header = [name.strip() for name in row]
            problem = _header_problem(header)
            if problem is not None:
                yield number, problem
                return
        elif len(row) > len(header):
            yield number, f"{len(row)} values for {len(header)} columns; quote a value that has a comma in it"
        elif any(cell.strip() for cell in row):
            fields: dict[str, Any] = {
                name: cell.strip() for name, cell in zip(header, row, strict=False) if cell.strip()
            }
            if "peak_velocity" in fields:
                fields["peak_velocity"] = fields["peak_velocity"].split()
            yield number, fields


def _header_problem(header: Sequence[str]) -> str | None:
    known = list(Trial.model_fields)
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        return "the columns are not separated by commas; save the table with commas"
    for name in header:
        if name not in known:
            return f"there is no column {name!r}; the columns are {', '.join(known)}"
        if header.count(name) > 1:
            return f"the column {name!r} is there twice"
    missing = [name for name, field in Trial.model_fields.items() if field.is_required() and name not in header]
    return f"the columns {', '.join(missing)} are missing" if missing else None


def _findings(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"there is no such field; the fields are {', '.join(Trial.model_fields)}"
        elif item["type"] == "missing":
            message = "it is missing, and every trial needs it"
        yield f"{where}: {message}" if where else message


def _together(numbered: Sequence[tuple[int, Trial]]) -> list[str]:
    """What is wrong with the lines as a whole: each is alone, twice, or lacks what others have."""
    problems: list[str] = []
    lines: dict[tuple[str, str, str], int] = {}
    for number, trial in numbered:
        key = (trial.task, trial.pair, trial.arm)
        if key in lines:
            problems.append(
                f"line {number}: the {trial.arm}'s trial of pair {trial.pair} of {trial.task} is in line {lines[key]} "
                "already; give every pair a name of its own"
            )
        lines.setdefault(key, number)
    for (task, pair, arm), number in lines.items():
        other = ARMS[1 - ARMS.index(arm)]
        if (task, pair, other) not in lines:
            problems.append(
                f"line {number}: pair {pair} of {task} has no trial of the {other}; run it from the same start, and "
                "record it under the same pair"
            )
    recorded: tuple[tuple[str, Callable[[Trial], Any]], ...] = (
        ("steps", lambda trial: trial.steps),
        ("clamped_steps", lambda trial: trial.clamped_steps),
        ("velocities", lambda trial: trial.velocities),
    )
    for name, of in recorded:
        having = [number for number, trial in numbered if of(trial) is not None]
        lone = [number for number, trial in numbered if of(trial) is None]
        if having and lone:
            problems.append(
                f"line {lone[0]}: no {name}, and line {having[0]} has them; record them in every trial or in none, as "
                "those that lack them may be the others"
            )
    return problems


def _check_logs(folder: Path, numbered: Sequence[tuple[int, Trial]]) -> tuple[tuple[str, ...], list[str]]:
    """The joints that all logs have, and what is wrong with the logs."""
    problems: list[str] = []
    joints: tuple[str, ...] = ()
    named: dict[str, int] = {}
    for number, trial in numbered:
        if trial.velocities is None:
            continue
        if trial.velocities in named:
            problems.append(f"line {number}: {trial.velocities} is line {named[trial.velocities]}'s log already")
            continue
        named[trial.velocities] = number
        try:
            found = read_velocity_log(folder / trial.velocities).joints
        except RecordsRejected as error:
            problems.append(f"line {number}: velocities: {error}")
            continue
        joints = joints or found
        if found != joints:
            problems.append(
                f"line {number}: {trial.velocities} has the joints {', '.join(found)}, and the logs before it have "
                f"{', '.join(joints)}; log the same joints in every trial"
            )
    return joints, problems
