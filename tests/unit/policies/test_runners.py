"""ONNX and torch say the same, and ONNX needs no torch."""

import dataclasses
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from lerobot.policies.common.vla_utils import resize_with_pad, resize_with_pad_torch
from lerobot_policy_flowstill.stateless_prompt import stateless_prompt

from flowstill.errors import UserError
from flowstill.policies import numpy_images, numpy_processors
from flowstill.policies.onnx_runner import OnnxRunner
from flowstill.policies.torch_runner import TorchRunner, tensors
from flowstill_trainer.export import float64_values
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
    assert [(p.batch, p.draws) for p in graph.parity] == [(1, 1), *((batch, 8) for batch in range(1, 9))]
    assert 0 < graph.difference < 1e-5
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
        assert len(set(theirs.density_BK.ravel().tolist())) > 1


def test_a_runner_takes_other_neighbours_than_the_artifact_says(published):
    folder, seen = published / "policy", tiny_smolvla.observations(3)
    noise = np.random.default_rng(4).normal(size=(3, 8, tiny_smolvla.CHUNK, 8)).astype(np.float32)

    def density(neighbours):
        runner = TorchRunner.load(
            folder, steps=None, draws=8, neighbours=neighbours, device="cpu", threads=None, digest="sha256:x"
        )
        return runner.act(seen, noise).density_BK

    assert np.array_equal(density(None), density(3))
    assert (density(1) > density(3)).all()  # the nearest one is nearer than the mean of three


def test_both_describe_themselves_alike(published):
    ours, theirs = onnx(published).info, in_torch(published).info
    assert ours.runtime == "onnx"
    assert ours.providers == ("CPUExecutionProvider",)
    different = {"runtime": "torch", "providers": theirs.providers}
    assert dataclasses.replace(ours, **different) == theirs


def test_the_graph_holds_no_float64_and_takes_what_the_network_uses(published, tiny):
    import onnx as library

    model = library.load(str(published / "onnx" / "student.onnx"))
    assert not list(float64_values(model))
    cameras = 1 if tiny.kind == "smolvla" else 2  # the second is an empty one
    wanted = [f"image_{i}" for i in range(cameras)] + [f"image_mask_{i}" for i in range(cameras)]
    wanted += ["tokens", "token_mask"] + (["state"] if tiny.kind != "pi05" else []) + ["noise"]
    assert [i.name for i in model.graph.input] == wanted
    assert all(i.type.tensor_type.shape.dim[0].dim_param == "batch" for i in model.graph.input)
    assert model.graph.input[-1].type.tensor_type.shape.dim[1].dim_param == "draws"


def test_float64_is_found_wherever_it_is():
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(1, np.float64), "constant")
    )
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE), constant],
        "graph",
        [value("x", TensorProto.FLOAT, [1])],
        [value("z", TensorProto.DOUBLE, [1])],
        [numpy_helper.from_array(np.zeros(1, np.float64), "w")],
        value_info=[value("v", TensorProto.DOUBLE, [1]), value("f", TensorProto.FLOAT, [1])],
    )
    assert sorted(float64_values(helper.make_model(graph))) == ["c", "v", "w", "y", "z"]


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
@pytest.mark.parametrize("centred", [False, True])
def test_resize_is_lerobots(height, width, centred):
    image = np.random.default_rng(0).uniform(size=(2, 3, height, width)).astype(np.float32)
    tensor = torch.from_numpy(image)
    theirs = resize_with_pad_torch(tensor, 32, 32) if centred else resize_with_pad(tensor, 32, 32, pad_value=0)
    ours = numpy_images.resize_with_pad(image, 32, 32, centred=centred)
    assert np.allclose(ours, theirs.numpy(), atol=1e-5)


def test_numpy_inputs_are_lerobots(published):
    """Every input of the graph, for every step of the checkpoint's own processors."""
    seen = tiny_smolvla.observations(6)
    flow = in_torch(published).flow
    theirs = flow.prepared(flow.preprocess(tensors(seen))).padded_to(flow.token_length).named()
    ours = numpy_processors.NumpyProcessors(published / "policy").before(seen)
    assert theirs.keys() <= ours.keys()
    for name, tensor in theirs.items():
        exact = tensor.dtype != torch.float32
        same = np.array_equal if exact else partial(np.allclose, atol=1e-5)
        assert same(ours[name], tensor.numpy()), name


def test_state_prompts_are_lerobots():
    from lerobot.lerobot_types import TransitionKey
    from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep

    tasks = [" push_the block ", "reach\nbehind it"]
    state = np.array([[-1.5, -1.0, -0.999, 0.0, 0.996], [0.9999, 1.0, 1.5, 0.5, -0.5]], np.float32)
    transition = {
        TransitionKey.OBSERVATION: {"observation.state": torch.from_numpy(state)},
        TransitionKey.COMPLEMENTARY_DATA: {"task": list(tasks)},
    }
    theirs = Pi05PrepareStateTokenizerProcessorStep()(transition)[TransitionKey.COMPLEMENTARY_DATA]["task"]
    assert numpy_processors.state_prompts(tasks, state) == theirs
    assert numpy_processors.stateless_prompts(tasks) == [stateless_prompt(task) for task in tasks]


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
