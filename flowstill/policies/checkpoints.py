"""Reading a LeRobot checkpoint: its files, its configuration and its processors."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors

import lerobot_policy_flowstill  # noqa: F401  registers the students' types
from flowstill.errors import TeacherRejected

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
TOKENIZER_FOLDER = "tokenizer"
HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
NEEDED = ("config.json", WEIGHTS, *PROCESSORS)
STUDENT_PREFIX = "flowstill_"
"""Of the types of students."""
KNOWN_STEPS = {
    "rename_observations_processor",
    "to_batch_processor",
    "smolvla_new_line_processor",
    "pi0_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "flowstill_stateless_prompt",
    "tokenizer_processor",
    "flowstill_tokenizer",
    "device_processor",
    "normalizer_processor",
    "unnormalizer_processor",
    "relative_actions_processor",
    "absolute_actions_processor",
}
RELATIVE_STEPS = {"relative_actions_processor", "absolute_actions_processor"}


def read_json(path: Path, field: str) -> dict[str, Any]:
    """A JSON object of the checkpoint."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TeacherRejected(f"{path} is not readable JSON ({error}); save the policy again", field=field) from error
    if not isinstance(value, dict):
        raise TeacherRejected(f"{path} holds no JSON object; save the policy again", field=field)
    return value


def check_folder(folder: Path, accepted: set[str], field: str) -> str:
    """That the folder is a checkpoint of an accepted type; returns the type.

    Raises:
        TeacherRejected: it is not, with what to do.
    """
    if (folder / ADAPTER).exists():
        raise TeacherRejected(
            f"{folder} is a PEFT adapter, not a whole policy; where peft is installed merge it first, and give the "
            f"new folder: python -m flowstill.policies.merge_adapter {shlex.quote(str(folder))} MERGED",
            field=field,
        )
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    kind = None if "config.json" in missing else read_json(folder / "config.json", field).get("type")
    if "config.json" not in missing and kind not in accepted:
        raise TeacherRejected(
            f"the checkpoint is of type {kind!r}; Flowstill distills flow-matching policies of type "
            f"{', '.join(sorted(name for name in accepted if not name.startswith(STUDENT_PREFIX)))}",
            field=field,
        )
    if missing == list(PROCESSORS):
        raise TeacherRejected(
            f"{folder} lacks {', '.join(missing)}, as LeRobot before 0.4 saved policies; write them, and give the new "
            "folder: python -m lerobot.processor.migrate_policy_normalization --pretrained-path "
            f"{shlex.quote(str(folder))} --output-dir MIGRATED",
            field=field,
        )
    if missing:
        raise TeacherRejected(
            f"{folder} lacks {', '.join(missing)}; give the folder that LeRobot's save_pretrained wrote "
            "(…/checkpoints/last/pretrained_model)",
            field=field,
        )
    for name in PROCESSORS:
        check_steps(name, read_json(folder / name, field).get("steps", []), field)
    return str(kind)


def check_steps(name: str, steps: list[dict[str, Any]], field: str) -> None:
    """That every step of a processor can be reproduced outside LeRobot.

    Raises:
        TeacherRejected: a step cannot, with its name.
    """
    for step in steps:
        kind = step.get("registry_name")
        if kind not in KNOWN_STEPS:
            raise TeacherRejected(
                f"{name} has the step {kind or step.get('class')!r}, which cannot be reproduced outside LeRobot; "
                f"known: {', '.join(sorted(KNOWN_STEPS))}",
                field=field,
            )
        if kind in RELATIVE_STEPS and step.get("config", {}).get("enabled", False):
            raise TeacherRejected(
                f"{name} has {kind} enabled: LeRobot turns a chunk back with the last state that it saw, which is "
                "wrong when observations come in batches; train the teacher with use_relative_actions=false",
                field=field,
            )


def read_config(folder: Path, device: str, field: str) -> Any:
    """The policy's configuration for ``device``, without what changes how LeRobot computes it."""
    try:
        config = PreTrainedConfig.from_pretrained(folder)
    except Exception as error:  # draccus raises many kinds
        raise TeacherRejected(
            f"{folder}/config.json does not parse ({error}); save it with LeRobot 0.6", field=field
        ) from error
    config.compile_model = False
    config.rtc_config = None
    config.device = device
    return config


def load_processors(folder: Path, config: Any, tokenizer: str | None, field: str) -> tuple[Any, Any]:
    """The checkpoint's own pre- and postprocessor, on the policy's device.

    ``tokenizer`` is where the tokenizer is; None: where the processor says, or in a folder beside it.
    """
    place = tokenizer
    steps = {step.get("registry_name"): step for step in read_json(folder / PROCESSORS[0], field).get("steps", [])}
    overrides: dict[str, dict[str, Any]] = {}
    if "tokenizer_processor" in steps:
        named = str(steps["tokenizer_processor"].get("config", {}).get("tokenizer_name"))
        place = place or beside(folder, named, TOKENIZER_FOLDER)
        overrides["tokenizer_processor"] = {"tokenizer_name": place}
    if "device_processor" in steps:
        overrides["device_processor"] = {"device": str(config.device)}
    try:
        before, after = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
    except Exception as error:  # LeRobot raises many kinds
        if place is not None and not Path(place).is_dir() and "tokenizer_processor" in str(error):
            raise TeacherRejected(
                elsewhere("the tokenizer", place, "*token*", TOKENIZER_FOLDER), field=field
            ) from error
        raise TeacherRejected(
            f"the processors of {folder} do not load ({first_line(error)}); copy the checkpoint again with all of its "
            "files, or save it with LeRobot 0.6",
            field=field,
        ) from error
    return before, after


def elsewhere(what: str, name: str, files: str, into: str) -> str:
    """That a part which LeRobot does not save is not here, and how it gets into the checkpoint."""
    fix = (
        f"in the checkpoint's folder run: hf download {name} --include '{files}' --local-dir {into}"
        if HUB_NAME.match(name)
        else f"put it into a folder '{into}' beside config.json"
    )
    return f"{what} {name} is neither in the checkpoint nor cached here, and nothing is downloaded now; {fix}"


def first_line(error: Exception) -> str:
    """Of libraries whose messages have many lines."""
    return str(error).strip().partition("\n")[0]


def beside(folder: Path, *names: str) -> str:
    """The first of these folders that lies in the checkpoint's, else the first name as it is (a path or a Hub id)."""
    for name in names:
        if (folder / name).is_dir():
            return str((folder / name).resolve())
    return names[0]
