"""LeRobot's own ``lerobot-eval`` runs a student in a simulator, offline."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowstill.policies.registry import load_flow_policy
from tests.support import tiny_smolvla
from tests.support.tiny_run import Tiny, small, small_path

REPOSITORY = Path(__file__).parents[2]
OTHERS = [pytest.param(kind, marks=pytest.mark.long) for kind in ("pi0", "pi05")]


def student(root, kind):
    """The ``policy`` folder of a student as it is published."""
    with small(kind):
        tiny = Tiny(root, kind)
        tiny.student(tiny.teacher()).save(root / "policy")
    return root / "policy"


def evaluate(policy, output, *options):
    command = [Path(sys.executable).with_name("lerobot-eval")]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{REPOSITORY}/examples/lerobot_eval:{small_path()}",
    }
    common = [f"--policy.path={policy}", "--policy.device=cpu", f"--output_dir={output}", "--eval.batch_size=1"]
    done = subprocess.run(
        [*command, *common, *options], env=environment, cwd=output.parent, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((output / "eval_info.json").read_text())["overall"]


@pytest.mark.parametrize("kind", ["smolvla", *OTHERS])
def test_lerobot_eval_runs_a_student_in_the_quickstarts_task(kind, tmp_path):
    rename = {"observation.images.top": tiny_smolvla.CAMERA}
    found = evaluate(
        student(tmp_path / "student", kind),
        tmp_path / "eval",
        "--env.discover_packages_path=reach_around",
        "--env.type=reach_around",
        "--env.episode_length=10",
        "--eval.n_episodes=2",
        f"--rename_map={json.dumps(rename)}",
    )
    assert found["n_episodes"] == 2
    assert all(math.isfinite(found[name]) for name in ("avg_sum_reward", "avg_max_reward", "pc_success", "eval_s"))
    assert found["avg_sum_reward"] > 0


@pytest.mark.long
def test_lerobot_eval_runs_a_student_in_lerobots_own_metaworld(tmp_path, monkeypatch):
    """500 steps, each drawn twice at 480 by 480 pixels without a GPU: three minutes of one core."""
    monkeypatch.setattr(tiny_smolvla, "STATE_DIM", 4)
    teacher = load_flow_policy(tiny_smolvla.write_teacher(tmp_path / "teacher"))
    made = teacher.make_student(draws=8, neighbours=3, action_steps=None, multi_step=True)
    made.save(tmp_path / "policy")
    rename = {"observation.image": tiny_smolvla.CAMERA}
    found = evaluate(
        tmp_path / "policy",
        tmp_path / "eval",
        "--env.type=metaworld",
        "--env.task=metaworld-push-v3",
        "--eval.n_episodes=1",
        f"--rename_map={json.dumps(rename)}",
    )
    assert found["n_episodes"] == 1
    assert all(math.isfinite(found[name]) for name in ("avg_sum_reward", "avg_max_reward", "pc_success", "eval_s"))
