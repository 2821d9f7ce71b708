"""How often the gates promote which student, and after how many episodes: simulated evaluations, no simulator.

    python bench/gates.py [--evaluations 2000] [--out bench/results/gates.json]
    python bench/gates.py --tasks 50                renews only these rows of the file
    python bench/gates.py --tasks 50 --discordance 0.095 --max-episodes-per-task 200 --out /tmp/fewer.json

Pairs of episodes are drawn from known probabilities and go through the gates and the looks that real ones go
through (``flowstill_evaluator.stopping.wanted``). Simulated are the gates that need pairs (S1, S3, P1, P5,
P6); *promoted* means that all five pass. The other four are measured apart and do not depend on the number
of episodes. Three students are compared with a baseline that solves 95 % of its episodes on every task:

* equal: as many pairs lost as gained;
* margin: P1's margin worse on every task;
* cliff: equal, but for one task, which loses S3's margin.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowstill.api.gates import Gates
from flowstill.api.studentrollout import Evaluation, Verdict
from flowstill_evaluator.evidence import Evidence, Expected, Gap, Pairs
from flowstill_evaluator.gates.chain import run_gates
from flowstill_evaluator.statistics import wilson
from flowstill_evaluator.stopping import looks_of, wanted

SUCCESS = 0.95
DISCORDANCES = (0.05, 0.095)
"""Share of pairs of an equal student that end differently: 5 % as students of this project were measured to
have at most, and what two arms have that share nothing but their success, 2 · 0.95 · 0.05."""
CLAMPED = 0.005
TASKS = (10, 50)
STUDENTS = ("equal", "margin", "cliff")
PAIR_GATES = frozenset({"S1", "S3", "P1", "P5", "P6"})
NOT_SIMULATED = Gap("not simulated")
SEED = 0

Outcomes = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """Gates and the numbers of episodes at which they are asked."""

    name: str
    gates: Gates
    evaluation: Evaluation


@dataclass(frozen=True)
class Row:
    """What one rule did with one kind of student, in so many evaluations.

    ``episodes`` are those of one arm over all tasks.
    """

    rule: str
    student: str
    tasks: int
    discordance: float
    evaluations: int
    promoted: float
    promoted_low: float
    promoted_high: float
    failed: float
    inconclusive: float
    mean_episodes: float
    median_episodes: float
    ended_at: dict[int, int]
    failed_by: dict[str, int]


def rules(tasks: int, most: int | None = None) -> list[Rule]:
    """The default profile with the default numbers, and the literal one with the usual and the largest number.

    ``most`` takes the place of the default ``maxEpisodesPerTask``.
    """
    base = {"suite": "metaworld", "tasks": [f"t{index}" for index in range(tasks)], "maxEpisodesPerTask": most}
    default = Evaluation.model_validate(base)
    at_most = base | {"episodesPerTask": default.most_episodes_per_task}
    literal = Gates.model_validate({"profile": "literal"})
    return [
        Rule("default", Gates(), default),
        Rule(f"literal, {default.episodes_per_task} a task", literal, default),
        Rule(f"literal, {default.most_episodes_per_task} a task", literal, Evaluation.model_validate(at_most)),
    ]


def losses(student: str, tasks: int) -> npt.NDArray[np.float64]:
    """How much less often the student succeeds on each task, (T,)."""
    if student == "margin":
        return np.full(tasks, Gates().p1.margin)
    lost_T = np.zeros(tasks)
    if student == "cliff":
        lost_T[0] = Gates().s3.margin
    return lost_T


def draw(
    generator: np.random.Generator, loss_T: npt.NDArray[np.float64], discordance: float, episodes: int
) -> dict[str, Outcomes]:
    """Outcomes of every pair of one evaluation, (T, N) each.

    A pair is gained with half the discordance and lost with the other half, and with the student's loss on top.
    The baseline succeeds with :data:`SUCCESS`; clamping strikes either arm by itself.
    """
    shape = (len(loss_T), episodes)
    lot_TN = generator.random(shape)
    gained_TN = lot_TN < discordance / 2
    lost_TN = (lot_TN >= discordance / 2) & (lot_TN < discordance + loss_T[:, None])
    # Of the pairs that end alike so many are successes that the baseline's rate comes out.
    both = (SUCCESS - discordance / 2 - loss_T) / (1 - discordance - loss_T)
    both_TN = generator.random(shape) < both[:, None]
    alike_TN = ~gained_TN & ~lost_TN & both_TN
    return {
        "student_success": gained_TN | alike_TN,
        "baseline_success": lost_TN | alike_TN,
        "student_clamped": generator.random(shape) < CLAMPED,
        "baseline_clamped": generator.random(shape) < CLAMPED,
    }


def evaluate(rule: Rule, outcomes: dict[str, Outcomes]) -> tuple[Verdict, int, list[str]]:
    """Verdict of the five gates, the number of episodes a task at which it fell, and the gates that failed."""
    names = tuple(rule.evaluation.tasks)
    looks = looks_of(rule.evaluation)
    present = looks[0]
    while True:
        expected = Expected("metaworld", names, present, "student", "teacher@10", "", looks=looks)
        pairs = Pairs(
            tasks=names,
            task_index=np.repeat(np.arange(len(names)), present),
            **{name: values_TN[:, :present].ravel() for name, values_TN in outcomes.items()},
        )
        evidence = Evidence(expected, {}, pairs, *[NOT_SIMULATED] * 5)
        following = wanted(evidence, rule.gates)
        if following == present:
            break
        present = following
    verdicts = {r.name: r.verdict for r in run_gates(evidence, rule.gates) if r.name in PAIR_GATES}
    failed = [name for name, verdict in verdicts.items() if verdict == "Fail"]
    passed = set(verdicts.values()) == {"Pass"}
    return "Fail" if failed else "Pass" if passed else "Inconclusive", present, failed


def simulate(rule: Rule, student: str, discordance: float, evaluations: int, most: int) -> Row:
    """Many evaluations of one kind of student, of ``most`` drawn episodes a task: the same ones for every rule."""
    tasks = len(rule.evaluation.tasks)
    loss_T = losses(student, tasks)
    verdicts: Counter[Verdict] = Counter()
    ended_at: Counter[int] = Counter()
    failed_by: Counter[str] = Counter()
    for number in range(evaluations):
        generator = np.random.default_rng([SEED, number, tasks, STUDENTS.index(student)])
        verdict, episodes, failed = evaluate(rule, draw(generator, loss_T, discordance, most))
        verdicts[verdict] += 1
        ended_at[episodes] += 1
        failed_by.update(failed)
    bounds = wilson(verdicts["Pass"], evaluations)
    spent = np.repeat(list(ended_at), list(ended_at.values())) * tasks
    return Row(
        rule=rule.name,
        student=student,
        tasks=tasks,
        discordance=discordance,
        evaluations=evaluations,
        promoted=verdicts["Pass"] / evaluations,
        promoted_low=bounds.low,
        promoted_high=bounds.high,
        failed=verdicts["Fail"] / evaluations,
        inconclusive=verdicts["Inconclusive"] / evaluations,
        mean_episodes=float(spent.mean()),
        median_episodes=float(np.median(spent)),
        ended_at=dict(sorted(ended_at.items())),
        failed_by=dict(sorted(failed_by.items())),
    )


def table(rows: list[Row]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| tasks | pairs that differ | student | rule | promoted | failed | open | episodes an arm (mean) |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.tasks} | {100 * row.discordance:g} % | {row.student} | {row.rule} "
            f"| {100 * row.promoted:.1f} % ({100 * row.promoted_low:.1f}–{100 * row.promoted_high:.1f}) "
            f"| {100 * row.failed:.1f} % | {100 * row.inconclusive:.1f} % | {row.mean_episodes:,.0f} |"
        )


def renewed(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The file's rows with these in the place of those of the same tasks and discordance, in the table's order."""
    new = {(row["tasks"], row["discordance"]) for row in rows}
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in old if (row["tasks"], row["discordance"]) not in new]
    return sorted([*kept, *rows], key=lambda row: (row["discordance"], row["tasks"]))


def main() -> None:
    """Simulate everything, print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=2000, help="of each kind of student (default: 2000)")
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--discordance", type=float, nargs="+", default=DISCORDANCES, help="share of pairs that differ")
    parser.add_argument("--max-episodes-per-task", type=int, help="default: that of the API")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gates.json")
    arguments = parser.parse_args()
    started = time.monotonic()
    rows: list[Row] = []
    for discordance, tasks, student in product(arguments.discordance, arguments.tasks, STUDENTS):
        asked = rules(tasks, arguments.max_episodes_per_task)
        most = max(rule.evaluation.most_episodes_per_task for rule in asked)
        for rule in asked:
            rows.append(simulate(rule, student, discordance, arguments.evaluations, most))
            print(list(table(rows))[-1], flush=True)
    written = renewed(arguments.out, [asdict(row) for row in rows])
    value = {"success": SUCCESS, "clamped": CLAMPED, "seed": SEED, "rows": written}
    arguments.out.write_text(json.dumps(value, indent=1) + "\n")
    print("\n".join(table(rows)))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
