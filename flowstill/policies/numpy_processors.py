"""LeRobot's saved processors in numpy, so that an ONNX runner needs no torch.

Only the steps that :mod:`flowstill.policies.checkpoints` accepts are known; a test holds each against LeRobot's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer  # type: ignore[import-untyped]

from flowstill.errors import ArtifactError
from flowstill.policies.interface import STATE, Floats, Observations
from flowstill.policies.numpy_images import ImageRule

RENAME = "rename_observations_processor"
Statistics = dict[str, npt.NDArray[Any]]


def transform(x: npt.NDArray[Any], stats: Statistics, mode: str, eps: float, *, inverse: bool) -> npt.NDArray[Any]:
    """LeRobot's (un)normalisation of one feature."""
    if mode == "IDENTITY" or not stats:
        return x
    if mode == "MEAN_STD":
        mean, std = stats["mean"].astype(np.float32), stats["std"].astype(np.float32)
        return x * std + mean if inverse else (x - mean) / (std + np.float32(eps))
    names = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
    if mode not in names:
        raise ArtifactError(f"normalisation {mode!r} is not known here; use runtime='torch'")
    low, high = (stats[n].astype(np.float32) for n in names[mode])
    span = np.where(high == low, np.float32(eps), high - low)
    result: npt.NDArray[Any] = (x + 1) / 2 * span + low if inverse else 2 * (x - low) / span - 1
    return result


def state_prompts(tasks: Sequence[str], state_BS: Floats) -> list[str]:
    """π0.5's prompts: each instruction with its normalised state in 256 bins of [−1, 1]."""
    bins_BS = np.digitize(state_BS, bins=np.linspace(-1, 1, 257)[:-1]) - 1
    states = [" ".join(map(str, bins)) for bins in bins_BS.tolist()]
    return [f"Task: {_clean(task)}, State: {state};\nAction: " for task, state in zip(tasks, states, strict=True)]


def stateless_prompts(tasks: Sequence[str]) -> list[str]:
    """The prompts of a state-out student."""
    return [f"Task: {_clean(task)};\nAction: " for task in tasks]


def _clean(task: str) -> str:
    return task.strip().replace("_", " ").replace("\n", " ")


@dataclass(frozen=True)
class _Step:
    name: str
    config: dict[str, Any]
    state: Statistics = field(default_factory=dict)

    def is_off(self, name: str) -> bool:
        """Whether it is this step, and does nothing."""
        return self.name == name and not self.config.get("enabled", False)

    def normalised(self, key: str, x: npt.NDArray[Any], *, inverse: bool) -> npt.NDArray[Any]:
        feature = self.config["features"].get(key)
        if feature is None:
            return x
        stats = {k.removeprefix(f"{key}."): v for k, v in self.state.items() if k.rpartition(".")[0] == key}
        mode = self.config["norm_map"].get(feature["type"], "IDENTITY")
        return transform(x, stats, mode, float(self.config.get("eps", 1e-8)), inverse=inverse)


def _steps(folder: Path, name: str) -> list[_Step]:
    steps = json.loads((folder / name).read_text())["steps"]
    return [
        _Step(
            name=step.get("registry_name", step.get("class", "")),
            config=step.get("config", {}),
            state=load_file(folder / step["state_file"]) if step.get("state_file") else {},
        )
        for step in steps
    ]


class NumpyProcessors:
    """Observations to the graph's inputs, and normalised actions back to the robot's units."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self._before = _steps(folder, "policy_preprocessor.json")
        self._after = _steps(folder, "policy_postprocessor.json")
        self.renamed: dict[str, str] = {}
        for step in self._before:
            if step.name == RENAME:
                self.renamed |= step.config["rename_map"]
        length = int(self.config["tokenizer_max_length"])
        self._tokenizers = {s.name: _tokenizer(s, length) for s in self._before if s.name == "flowstill_tokenizer"}
        features = self.config["input_features"]
        self._images = ImageRule.of(self.config)
        self.shapes = {name: tuple(feature["shape"]) for name, feature in features.items()}
        self.image_keys = [k for k, f in features.items() if f["type"] == "VISUAL"]
        self.state_dim = int(features[STATE]["shape"][0])
        self.action_dim = int(self.config["output_features"]["action"]["shape"][0])

    def before(self, observations: Observations) -> dict[str, npt.NDArray[Any]]:
        """The graph's inputs but ``noise``."""
        data: dict[str, Any] = {}
        for key, value in observations.items():
            if key == "task":
                data[key] = list(value)
            elif key.startswith("observation.image"):
                data[key] = np.moveaxis(np.asarray(value), 3, 1).astype(np.float32) / np.float32(255.0)
            else:
                data[key] = np.asarray(value, dtype=np.float32)
        for step in self._before:
            data = self._apply(step, data)
        state_BS = data[STATE]
        pad = self.config["max_state_dim"] - state_BS.shape[1]
        state_BS = np.pad(state_BS, ((0, 0), (0, pad)))
        inputs = {"tokens": data["tokens"], "token_mask": data["token_mask"], "state": state_BS}
        return inputs | self._images.apply(data, self.image_keys)

    def after(self, actions_BHD: Floats) -> Floats:
        """Real dimensions in the robot's units."""
        actions: npt.NDArray[Any] = actions_BHD[..., : self.action_dim]
        for step in self._after:
            if step.name == "unnormalizer_processor":
                actions = step.normalised("action", actions, inverse=True)
            elif step.name != "device_processor" and not step.is_off("absolute_actions_processor"):
                raise ArtifactError(f"postprocessor step {step.name!r} is not known here; use runtime='torch'")
        return actions.astype(np.float32)

    def _apply(self, step: _Step, data: dict[str, Any]) -> dict[str, Any]:
        if step.name == RENAME:
            return {step.config["rename_map"].get(k, k): v for k, v in data.items()}
        if step.name in {"smolvla_new_line_processor", "pi0_new_line_processor"}:
            return data | {"task": [t if t.endswith("\n") else f"{t}\n" for t in data["task"]]}
        if step.name == "pi05_prepare_state_tokenizer_processor_step":
            return data | {"task": state_prompts(data["task"], data[STATE])}
        if step.name == "flowstill_stateless_prompt":
            return data | {"task": stateless_prompts(data["task"])}
        if step.name == "flowstill_tokenizer":
            return data | _tokenize(self._tokenizers[step.name], data["task"])
        if step.name == "normalizer_processor":
            return {
                k: step.normalised(k, v, inverse=False).astype(np.float32) if k.startswith("observation.") else v
                for k, v in data.items()
            }
        if step.name in {"to_batch_processor", "device_processor"} or step.is_off("relative_actions_processor"):
            return data
        raise ArtifactError(f"preprocessor step {step.name!r} is not known here; use runtime='torch'")


def _tokenizer(step: _Step, length: int) -> Tokenizer:
    """Padded to ``length``, a constant of the graph; the mask hides what LeRobot would not have padded."""
    tokenizer = Tokenizer.from_str(step.state["tokenizer_json"].tobytes().decode())
    config, pad = step.config, step.config["pad_token"]
    if config["truncation"]:
        tokenizer.enable_truncation(config["max_length"])
    else:
        tokenizer.no_truncation()
    tokenizer.enable_padding(
        direction=config["padding_side"], pad_id=tokenizer.token_to_id(pad), pad_token=pad, length=length
    )
    return tokenizer


def _tokenize(tokenizer: Tokenizer, tasks: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    encoded = tokenizer.encode_batch(list(tasks))
    return {
        "tokens": np.array([e.ids for e in encoded], dtype=np.int64),
        "token_mask": np.array([e.attention_mask for e in encoded], dtype=bool),
    }
