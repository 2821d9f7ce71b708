"""Reading a LeRobot checkpoint and trusting it only when every tensor is there."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file

import lerobot_policy_flowstill  # noqa: F401  registers the student's type
from flowstill.errors import TeacherRejected

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
NEEDED = ("config.json", WEIGHTS, "policy_preprocessor.json", "policy_postprocessor.json")
KNOWN_STEPS = {
    "rename_observations_processor",
    "to_batch_processor",
    "smolvla_new_line_processor",
    "tokenizer_processor",
    "flowstill_tokenizer",
    "device_processor",
    "normalizer_processor",
    "unnormalizer_processor",
}


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
    if (folder / "adapter_config.json").exists():
        raise TeacherRejected(
            f"{folder} is a PEFT adapter, not a whole policy; merge it first "
            "(peft: PeftModel.from_pretrained(policy, folder).merge_and_unload().save_pretrained(merged))",
            field=field,
        )
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    kind = None if "config.json" in missing else read_json(folder / "config.json", field).get("type")
    if "config.json" not in missing and kind not in accepted:
        raise TeacherRejected(
            f"the checkpoint is of type {kind!r}; Flowstill distills flow-matching policies of type "
            f"{', '.join(sorted(accepted))}",
            field=field,
        )
    if missing:
        raise TeacherRejected(
            f"{folder} lacks {', '.join(missing)}; give the folder that LeRobot's save_pretrained wrote "
            "(…/checkpoints/last/pretrained_model)",
            field=field,
        )
    for name in NEEDED[2:]:
        for step in read_json(folder / name, field).get("steps", []):
            if step.get("registry_name") not in KNOWN_STEPS:
                raise TeacherRejected(
                    f"{name} has the step {step.get('registry_name') or step.get('class')!r}, which cannot be "
                    f"reproduced outside LeRobot; known: {', '.join(sorted(KNOWN_STEPS))}",
                    field=field,
                )
    return str(kind)


def read_config(folder: Path, device: str, field: str) -> Any:
    """The policy's configuration, its VLM resolved relative to the folder."""
    try:
        config = PreTrainedConfig.from_pretrained(folder)
    except Exception as error:  # draccus raises many kinds
        raise TeacherRejected(
            f"{folder}/config.json does not parse ({error}); save it with LeRobot 0.6", field=field
        ) from error
    if config.adapt_to_pi_aloha:
        raise TeacherRejected(
            "adapt_to_pi_aloha rewrites states and actions outside the processors; not supported", field=field
        )
    config.vlm_model_name = resolve_vlm(folder, config.vlm_model_name)
    config.load_vlm_weights = False  # all weights come from the checkpoint
    config.compile_model = False
    config.rtc_config = None
    config.use_cache = True
    config.device = device
    return config


def resolve_vlm(folder: Path, name: str) -> str:
    """The VLM's folder beside the checkpoint when there is one, else the name as it is (a path or a Hub id)."""
    for candidate in (folder / name, folder / "vlm"):
        if candidate.is_dir():
            return str(candidate.resolve())
    return name


def build(policy_class: Any, config: Any, field: str) -> Any:
    """The policy with random weights; a VLM that is not there is the user's to bring."""
    try:
        return policy_class(config)
    except OSError as error:
        raise TeacherRejected(
            f"the VLM {config.vlm_model_name!r} is neither beside the checkpoint nor cached here ({error}); put its "
            "config.json, tokenizer and processor_config.json into a folder 'vlm' beside config.json",
            field=field,
        ) from error


def load_tensors(policy: torch.nn.Module, file: Path, field: str) -> None:
    """Load every tensor, or refuse: LeRobot itself goes on with random weights where one is missing.

    Raises:
        TeacherRejected: a tensor is missing, unexpected, misshaped, or not finite.
    """
    try:
        stored = load_file(file)
    except Exception as error:  # safetensors raises its own class for a truncated file
        raise TeacherRejected(f"{file} is not a readable safetensors file ({error})", field=field) from error
    expected = policy.state_dict()
    shared: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        shared.setdefault(tensor.data_ptr(), []).append(name)
    present = {n for names in shared.values() if any(x in stored for x in names) for n in names}
    misshaped = [n for n, t in stored.items() if n in expected and expected[n].shape != t.shape]
    problems = {
        "missing": sorted(expected.keys() - present),
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": sorted(misshaped),
        "not finite": sorted(n for n, t in stored.items() if t.is_floating_point() and not t.isfinite().all()),
    }
    found = [f"{what}: {', '.join(names[:3])} ({len(names)} in all)" for what, names in problems.items() if names]
    if found:
        raise TeacherRejected(
            f"the tensors of {file} are not those of this policy; {'; '.join(found)}. Save the policy with LeRobot 0.6 "
            "(older ones: lerobot/processor/migrate_policy_normalization.py)",
            field=field,
        )
    cast = [n for n, t in stored.items() if t.dtype != expected[n].dtype]
    if cast:
        logger.info("%d tensors are cast to the dtype that the policy computes in, as LeRobot does", len(cast))
    policy.load_state_dict(stored, strict=False)


def load_processors(folder: Path, config: Any, field: str) -> tuple[Any, Any]:
    """The checkpoint's own pre- and postprocessor, on the policy's device."""
    present = {step.get("registry_name") for step in read_json(folder / NEEDED[2], field).get("steps", [])}
    overrides: dict[str, dict[str, Any]] = {}
    if "tokenizer_processor" in present:
        overrides["tokenizer_processor"] = {"tokenizer_name": config.vlm_model_name}
    if "device_processor" in present:
        overrides["device_processor"] = {"device": str(config.device)}
    try:
        before, after = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
    except Exception as error:  # LeRobot raises many kinds
        raise TeacherRejected(
            f"the processors of {folder} do not load ({error}); save them with LeRobot 0.6", field=field
        ) from error
    return before, after
