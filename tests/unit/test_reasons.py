"""Every reason that a condition can have is in docs/conditions.md, and nothing else is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from flowstill.api.schema import REPOSITORY

OPERATOR = REPOSITORY / "operator/flowstill_operator"
DOCUMENT = REPOSITORY / "docs/conditions.md"
CHILDREN = "A child that ends with an error says why itself"
WORD = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")
ELSEWHERE = ("command", "people")
"""Parts of the operator that show conditions and set none."""

CONDITIONS = {
    "Complete", "Drifted", "Failed", "Monitored", "ParityVerified", "Promoted", "Superseded", "Trained", "Validated",
}  # fmt: skip
PHASES = {"Evaluating", "Judging", "Monitoring", "Rejected", "Validating"}
VALUES = {"False", "True", "Unknown", "Normal", "Warning", "Fail", "Pass", "Manual", "Missing", "Error", "UserError"}
KINDS = {
    "Deployment", "DistillJob", "Event", "Job", "Judge", "Parity", "Pod", "ReplicaSet", "Rollouts", "Service",
    "StudentRollout", "Train",
}  # fmt: skip
KUBERNETES = {
    "Accept", "Always", "BearerToken", "CompletionsReached", "DisruptionTarget", "FailJob", "FailureTarget",
    "FieldManagerConflict", "File", "Foreground", "IfNotPresent", "Ignore", "In", "Indexed", "Memory",
    "NamespaceTerminating", "Never", "None", "OnRootMismatch", "PodScheduled", "RuntimeDefault",
}  # fmt: skip
OTHERS = {"ChildProcess", "InvalidUsage", "Reason"}
NO_REASONS = CONDITIONS | PHASES | VALUES | KINDS | KUBERNETES | OTHERS
"""Words of the operator's code that are no reason of a condition. A new word is one of these, or is documented."""
NOT_FAILED = {"AlreadyPublished", "Error", "MoreEpisodes", "Published", "Reused", "RolloutsPublished"}
"""What children say when they succeed, which becomes no condition; and the word of no error in particular."""


def trees(*roots: Path) -> Iterator[ast.Module]:
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if root != OPERATOR or path.relative_to(root).parts[0] not in ELSEWHERE:
                yield ast.parse(path.read_text())


def words_of_the_operator() -> set[str]:
    nodes = [node for tree in trees(OPERATOR) for node in ast.walk(tree)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {text for text in texts if WORD.fullmatch(text)}


def reasons_of_children() -> set[str]:
    """``reason = "X"`` of an error's class, ``reason="X"`` where one is raised or a result is made."""
    roots = ("flowstill", "trainer", "evaluator", "lerobot_policy_flowstill")
    found: list[ast.expr] = []
    for node in (node for tree in trees(*(REPOSITORY / root for root in roots)) for node in ast.walk(tree)):
        names = [getattr(target, "id", "") for target in node.targets] if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.Assign | ast.keyword) and (names == ["reason"] or getattr(node, "arg", "") == "reason"):
            found.append(node.value)
    texts = [value.value for value in found if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return {text for text in texts if WORD.fullmatch(text)}


def documented() -> tuple[list[str], list[str]]:
    """The reasons of the operator, and those of children."""
    parts = re.split(r"^(?=## |A child that ends)", DOCUMENT.read_text(), flags=re.MULTILINE)
    rows = {part: re.findall(r"^\| `([A-Za-z]+)` \|", part, re.MULTILINE) for part in parts}
    of_children = [name for part, names in rows.items() if part.startswith(CHILDREN) for name in names]
    return [name for part, names in rows.items() if not part.startswith(CHILDREN) for name in names], of_children


def test_every_reason_of_the_operator_is_documented_once_and_no_other() -> None:
    of_operator, _ = documented()
    assert len(of_operator) == len(set(of_operator))
    assert set(of_operator) == words_of_the_operator() - NO_REASONS


def test_every_reason_of_a_child_is_documented_once_and_no_other() -> None:
    _, of_children = documented()
    assert len(of_children) == len(set(of_children))
    assert set(of_children) == reasons_of_children() - NOT_FAILED


def test_a_condition_is_given_no_word_that_is_no_reason() -> None:
    calls = [node for tree in trees(OPERATOR) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = [call.args[2] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "condition"]
    words = {node.value for value in given for node in ast.walk(value) if isinstance(node, ast.Constant)}
    assert len(given) > 30
    assert not words & NO_REASONS
