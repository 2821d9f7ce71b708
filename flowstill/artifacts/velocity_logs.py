"""Logs of joint velocities: a CSV file a trial, a column a joint, a row a control step, in rad/s."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from flowstill.errors import RecordsRejected

MAX_JOINTS = 64
MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class VelocityLog:
    """One trial's joint velocities; every row has one number a joint."""

    joints: tuple[str, ...]
    rows: list[list[float]]


def read_velocity_log(path: Path) -> VelocityLog:
    """Read a log and check it.

    Raises:
        RecordsRejected: naming file, line and fix.
    """
    if not path.is_file():
        raise RecordsRejected(f"{path} is not there; put the log there, or correct its name")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            joints = _joints(next(reader, []), path)
            rows = [_row(row, joints, path, reader.line_num) for row in reader if row]
    except OSError as error:
        raise RecordsRejected(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordsRejected(f"{path} is no UTF-8; write it as CSV, in UTF-8") from error
    except csv.Error as error:
        raise RecordsRejected(f"{path} line {reader.line_num}: no CSV: {error}") from error
    if not rows:
        raise RecordsRejected(f"{path} has no row below its header; log one row a control step")
    if len(rows) > MAX_ROWS:
        raise RecordsRejected(f"{path} has more than {MAX_ROWS:,} rows; is it one trial's?")
    return VelocityLog(joints, rows)


def _joints(header: list[str], path: Path) -> tuple[str, ...]:
    joints = tuple(name.strip() for name in header)
    if not joints or not all(joints) or len(set(joints)) != len(joints) or len(joints) > MAX_JOINTS:
        raise RecordsRejected(
            f"{path} line 1: name each joint once in the header, at most {MAX_JOINTS}, separated by commas"
        )
    if all(_number(name) is not None for name in joints):
        raise RecordsRejected(f"{path} line 1: numbers, and a header with the joints' names is wanted; add it")
    return joints


def _row(row: list[str], joints: tuple[str, ...], path: Path, line: int) -> list[float]:
    if len(row) != len(joints):
        raise RecordsRejected(f"{path} line {line}: {len(row)} numbers for {len(joints)} joints")
    numbers = [_number(cell) for cell in row]
    found = [number for number in numbers if number is not None]
    if len(found) != len(row):
        bad = row[numbers.index(None)]
        raise RecordsRejected(f"{path} line {line}: {bad[:40]!r} is no finite number; log the joint's speed in rad/s")
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
