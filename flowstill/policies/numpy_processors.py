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
from flowstill.policies.interface import Floats, Observations

Statistics = dict[str, npt.NDArray[Any]]


def resize_with_pad(image_BCHW: Floats, height: int, width: int) -> Floats:
    """Bilinear (half-pixel centres, no antialiasing) to fit, zeros on the left and the top: SmolVLA's convention."""
    old_height, old_width = image_BCHW.shape[2:]
    if (old_height, old_width) == (height, width):
        return image_BCHW
    ratio = max(old_width / width, old_height / height)
    inner_height, inner_width = int(old_height / ratio), int(old_width / ratio)
    resized = _linear(_linear(image_BCHW, 2, inner_height), 3, inner_width)
    pad = ((0, 0), (0, 0), (max(0, height - inner_height), 0), (max(0, width - inner_width), 0))
    return np.pad(resized, pad)


def _linear(x: Floats, axis: int, size: int) -> Floats:
    old = x.shape[axis]
    position = np.maximum((np.arange(size, dtype=np.float32) + 0.5) * np.float32(old / size) - 0.5, 0)
    low = np.minimum(position.astype(np.int64), old - 1)
    weight = (position - low).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    below, above = np.take(x, low, axis), np.take(x, np.minimum(low + 1, old - 1), axis)
    mixed: Floats = below * (1 - weight) + above * weight
    return mixed


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


@dataclass(frozen=True)
class _Step:
    name: str
    config: dict[str, Any]
    state: Statistics = field(default_factory=dict)

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
        length = int(self.config["tokenizer_max_length"])
        self._tokenizers = {s.name: _tokenizer(s, length) for s in self._before if s.name == "flowstill_tokenizer"}
        features = self.config["input_features"]
        self.image_keys = [k for k, f in features.items() if f["type"] == "VISUAL"]
        self.state_dim = int(features["observation.state"]["shape"][0])
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
        state_BS = data["observation.state"]
        pad = self.config["max_state_dim"] - state_BS.shape[1]
        state_BS = np.pad(state_BS, ((0, 0), (0, pad)))
        inputs = {"tokens": data["tokens"], "token_mask": data["token_mask"], "state": state_BS}
        return inputs | self._images(data, len(state_BS))

    def after(self, actions_BHD: Floats) -> Floats:
        """Real dimensions in the robot's units."""
        actions: npt.NDArray[Any] = actions_BHD[..., : self.action_dim]
        for step in self._after:
            if step.name == "unnormalizer_processor":
                actions = step.normalised("action", actions, inverse=True)
            elif step.name != "device_processor":
                raise ArtifactError(f"postprocessor step {step.name!r} is not known here; use runtime='torch'")
        return actions.astype(np.float32)

    def _apply(self, step: _Step, data: dict[str, Any]) -> dict[str, Any]:
        if step.name == "rename_observations_processor":
            return {step.config["rename_map"].get(k, k): v for k, v in data.items()}
        if step.name == "smolvla_new_line_processor":
            return data | {"task": [t if t.endswith("\n") else f"{t}\n" for t in data["task"]]}
        if step.name == "flowstill_tokenizer":
            return data | _tokenize(self._tokenizers[step.name], data["task"])
        if step.name == "normalizer_processor":
            return {
                k: step.normalised(k, v, inverse=False).astype(np.float32) if k.startswith("observation.") else v
                for k, v in data.items()
            }
        if step.name in {"to_batch_processor", "device_processor"}:
            return data
        raise ArtifactError(f"preprocessor step {step.name!r} is not known here; use runtime='torch'")

    def _images(self, data: dict[str, Any], batch: int) -> dict[str, npt.NDArray[Any]]:
        present = [k for k in self.image_keys if k in data]
        if not present:
            raise ArtifactError(f"no camera of the policy is observed ({self.image_keys}); check the rename map")
        missing = [k for k in self.image_keys if k not in data]
        target = self.config.get("resize_imgs_with_padding")
        inputs: dict[str, npt.NDArray[Any]] = {}
        for number, key in enumerate([*present, *missing[: self.config["empty_cameras"]]]):
            if key in data:
                image = data[key] if target is None else resize_with_pad(data[key], target[1], target[0])
                image = image * np.float32(2.0) - np.float32(1.0)
            else:
                image = np.full_like(inputs["image_0"], -1.0)
            inputs[f"image_{number}"] = np.ascontiguousarray(image)
            inputs[f"image_mask_{number}"] = np.full(batch, key in data)
        return inputs


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
