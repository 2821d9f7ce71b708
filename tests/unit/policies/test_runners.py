"""ONNX and torch say the same, and ONNX needs no torch."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from lerobot.policies.common.vla_utils import resize_with_pad

from flowstill.errors import UserError
from flowstill.policies import numpy_processors
from flowstill.policies.onnx_runner import OnnxRunner
from flowstill.policies.torch_runner import TorchRunner
from tests.support import tiny_smolvla


@pytest.fixture(scope="module")
def published(tiny, tmp_path_factory):
    """policy/ and onnx/ of a student whose target time means something."""
    from flowstill_trainer.publish import build_folder

    folder = tmp_path_factory.mktemp("student")
    teacher = tiny.teacher()
    student = tiny.student(teacher)
    torch.manual_seed(3)
    torch.nn.init.normal_(student.policy.model.target_time.output.weight, std=0.2)
    graph = build_folder(folder, student, tiny.frames(teacher))
    assert graph.difference < 1e-4
    return folder


def onnx(folder, draws=None):
    graph = folder / "onnx" / "student.onnx"
    return OnnxRunner(folder / "policy", graph, draws=draws, threads=1, provider="cpu", digest="sha256:x")


def in_torch(folder, draws=None):
    return TorchRunner.load(folder / "policy", steps=None, draws=draws, device="cpu", threads=None, digest="sha256:x")


@pytest.mark.parametrize(("batch", "draws"), [(1, 1), (1, 8), (3, 8), (5, 4)])
def test_onnx_is_torch(published, batch, draws):
    seen = tiny_smolvla.observations(batch)
    noise = np.random.default_rng(batch).normal(size=(batch, 8, tiny_smolvla.CHUNK, 8)).astype(np.float32)
    ours, theirs = onnx(published, draws).act(seen, noise), in_torch(published, draws).act(seen, noise)
    assert ours.all_normalised_BKHD.shape == (batch, draws, tiny_smolvla.CHUNK, 8)
    assert np.allclose(ours.all_normalised_BKHD, theirs.all_normalised_BKHD, atol=1e-4)
    assert np.array_equal(ours.index_B, theirs.index_B)
    assert np.allclose(ours.density_BK, theirs.density_BK, atol=1e-4)
    assert np.allclose(ours.actions_BHA, theirs.actions_BHA, atol=1e-3)
    if draws == 8:
        assert len(set(np.concatenate([theirs.density_BK.ravel()]).tolist())) > 1


def test_both_describe_themselves_alike(published):
    ours, theirs = onnx(published).info, in_torch(published).info
    assert ours.runtime == "onnx"
    assert ours.providers == ("CPUExecutionProvider",)
    different = {"runtime": "torch", "providers": theirs.providers}
    assert dataclasses.replace(ours, **different) == theirs


def test_the_graph_holds_no_float64(published):
    import onnx as library

    graph = library.load(str(published / "onnx" / "student.onnx")).graph
    assert not [v.name for v in graph.initializer if v.data_type == library.TensorProto.DOUBLE]
    assert [i.name for i in graph.input] == [
        "image_0",
        "image_mask_0",
        "tokens",
        "token_mask",
        "state",
        "noise",
    ]


def test_the_onnx_runner_imports_no_torch(published):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from flowstill.policies.onnx_runner import OnnxRunner\n"
        "from tests.support.tiny_smolvla import observations\n"
        "import numpy as np\n"
        f"root = Path({str(published)!r})\n"
        "runner = OnnxRunner(root / 'policy', root / 'onnx/student.onnx', draws=None, threads=1,\n"
        "                    provider='cpu', digest='')\n"
        "runner.act(observations(2), np.zeros((2, 8, 6, 8), np.float32))\n"
        "print([m for m in ('torch', 'lerobot', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_an_unknown_provider_is_refused(published):
    with pytest.raises(UserError, match="provider"):
        OnnxRunner(
            published / "policy",
            published / "onnx" / "student.onnx",
            draws=None,
            threads=1,
            provider="tpu",
            digest="",
        )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (64, 20), (17, 90)])
def test_resize_is_lerobots(height, width):
    image = np.random.default_rng(0).uniform(size=(2, 3, height, width)).astype(np.float32)
    theirs = resize_with_pad(torch.from_numpy(image), 32, 32, pad_value=0).numpy()
    assert np.allclose(numpy_processors.resize_with_pad(image, 32, 32), theirs, atol=1e-5)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"])
def test_normalisation_is_lerobots(mode):
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.processor import NormalizerProcessorStep

    generator = np.random.default_rng(0)
    low = generator.normal(size=3).astype(np.float32)
    stats = dict.fromkeys(("mean", "min", "q01", "q10"), low)
    stats |= dict.fromkeys(("max", "q99", "q90"), low + np.array([1, 2, 0], np.float32)) | {
        "std": np.ones(3, np.float32) * 2
    }
    kind = NormalizationMode(mode)
    step = NormalizerProcessorStep(
        features={"observation.state": PolicyFeature(FeatureType.STATE, (3,))},
        norm_map={FeatureType.STATE: kind},
        stats={"observation.state": {k: torch.from_numpy(v) for k, v in stats.items()}},
    )
    x = generator.normal(size=(4, 3)).astype(np.float32)
    for inverse in (False, True):
        theirs = step._apply_transform(torch.from_numpy(x), "observation.state", FeatureType.STATE, inverse=inverse)
        ours = numpy_processors.transform(x, stats, mode, step.eps, inverse=inverse)
        assert np.allclose(ours, theirs.numpy(), rtol=1e-5)
