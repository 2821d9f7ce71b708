"""LIBERO's tasks, sentences, initial states and meshes, without its simulator."""

import os

import numpy as np
import pytest

from flowstill.errors import UserError
from flowstill_evaluator.suites import libero_files
from flowstill_evaluator.suites.libero_files import ASSETS_VARIABLE, MAX_STEPS, assets, package, task_of
from flowstill_evaluator.suites.registry import LIBERO

NAME = "pick_up_the_cream_cheese_and_place_it_in_the_basket"


def test_tasks_have_a_number_or_a_name():
    assert task_of("libero_object/1") == task_of(f"libero_object/{NAME}")
    assert task_of("libero_object/1").sentence == "pick up the cream cheese and place it in the basket"
    assert task_of("libero_10/0").sentence.startswith("put both the alphabet soup and")
    assert task_of("libero_90/89").max_steps == 400
    with pytest.raises(UserError, match="listed twice"):
        LIBERO.preflight(["libero_object/1", f"libero_object/{NAME}"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("libero_object", r"tasks: libero_object has no task ''; it has 0 to 9 \(0: pick_up_the_alphabet_soup"),
        ("libero_object/10", "libero_object has no task '10'"),
        ("libero_object/-1", "libero_object has no task '-1'"),
        ("reach-v3", "LIBERO has no task 'reach-v3'; it has libero_spatial/0 to libero_spatial/9, .*libero_90/89"),
    ],
)
def test_a_task_that_it_has_not_is_named_with_those_that_it_has(task, message):
    with pytest.raises(UserError, match=message):
        task_of(task)


def test_tasks_sentences_and_limits_are_lerobots(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    (tmp_path / "config.yaml").write_text(f"bddl_files: {package()}/bddl_files\ninit_states: {package()}/init_files\n")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    from libero.libero import benchmark

    for suite, factory in benchmark.get_benchmark_dict().items():
        if suite not in MAX_STEPS:
            continue
        for index, theirs in enumerate(factory().tasks):
            ours = task_of(f"{suite}/{index}")
            assert (ours.name, ours.sentence) == (theirs.name, theirs.language)
            assert ours.definition.is_file()
        states = torch.load(package() / "init_files" / suite / theirs.init_states_file, weights_only=False)
        np.testing.assert_array_equal(ours.initial_states(), states)
    from lerobot.envs.libero import TASK_SUITE_MAX_STEPS

    assert MAX_STEPS == TASK_SUITE_MAX_STEPS


def test_without_meshes_it_is_said_where_they_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=rf"not in {tmp_path} .*nothing is downloaded.*set {ASSETS_VARIABLE}=FOLDER"):
        assets()
    monkeypatch.delenv(ASSETS_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=rf"libero/assets and {tmp_path}/.cache/libero/assets") as said:
        LIBERO.preflight(["libero_object/0"])
    assert said.value.reason == "AssetsMissing"
    os.makedirs(tmp_path / ".cache/libero/assets/scenes")
    assert assets() == tmp_path / ".cache/libero/assets"


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(libero_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"LIBERO is not installed; install flowstill\[libero\]"):
        package()
