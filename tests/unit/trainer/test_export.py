"""The graph in fp16 and bf16, in one piece and in two; and that a job never trains for a graph that cannot be made."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession
from safetensors.torch import save_file

from flowstill.api.distilljob import Export
from flowstill.artifacts.manifest import OnnxDescription
from flowstill.errors import UserError
from flowstill.policies.numpy_processors import NumpyProcessors
from flowstill.policies.onnx_runner import OnnxRunner
from flowstill.policies.torch_runner import TorchRunner
from flowstill_trainer.export import ExportPlan, PrecisionLost, describe, export, plan_export, rehearse
from flowstill_trainer.export import products as watched
from flowstill_trainer.export.onnx_files import Example, write
from flowstill_trainer.export.precision import CPU
from flowstill_trainer.export.products import Products, fp16_products
from flowstill_trainer.publish import build_folder, export_batch, probe_batch
from tests.support import tiny_smolvla
from tests.support.tiny_run import Tiny, small

REPOSITORY = Path(__file__).parents[3]
LIMIT = 2e-2
FLOAT16, BFLOAT16 = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16


OTHERS = [pytest.param(kind, marks=pytest.mark.long) for kind in ("pi0", "pi05")]


@pytest.fixture(scope="module", params=["smolvla", *OTHERS])
def tiny(request, tmp_path_factory):
    """Every policy in turn; each costs several exports."""
    with small(request.param):
        yield Tiny(tmp_path_factory.mktemp(request.param), request.param)


def a_student(tiny):
    """One whose target time means something."""
    student = tiny.student(tiny.teacher())
    torch.manual_seed(3)
    torch.nn.init.normal_(student.policy.model.target_time.output.weight, std=0.2)
    return student


@pytest.fixture(scope="module")
def halved(tiny, tmp_path_factory):
    """A student's folder and graph in fp16, with the pair."""
    folder = tmp_path_factory.mktemp("student")
    student = a_student(tiny)
    before = {name: tensor.clone() for name, tensor in student.policy.state_dict().items()}
    graph = build_folder(folder, student, tiny.frames(student), plan=ExportPlan("fp16", split=True))
    after = student.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert student.policy.model.folded_time_1E is None, "times must be computed again after the export"
    return folder, graph


def seen_and_noise(folder, batch, draws, seed=5):
    """Fresh inputs, in the robot's units and as the graph takes them."""
    seen = tiny_smolvla.observations(batch, seed=seed)
    noise = np.random.default_rng(seed).normal(size=(batch, draws, tiny_smolvla.CHUNK, 8)).astype(np.float32)
    return seen, noise, NumpyProcessors(folder / "policy").before(seen) | {"noise": noise}


def run(model, given):
    session = InferenceSession(str(model), providers=[CPU])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {i.name: given[i.name] for i in session.get_inputs()})
    return dict(zip(names, values, strict=True))


def in_torch(folder, seen, noise):
    runner = TorchRunner.load(
        folder / "policy", steps=None, draws=noise.shape[1], device="cpu", threads=None, digest="sha256:x"
    )
    return runner.act(seen, noise)


def types(model):
    """The type of every value of a graph."""
    known = onnx.shape_inference.infer_shapes(model).graph
    named = {v.name: v.type.tensor_type.elem_type for v in (*known.input, *known.value_info, *known.output)}
    return named | {i.name: i.data_type for i in model.graph.initializer}


def small_operators(model, small):
    kinds = types(model)
    return {n.op_type for n in model.graph.node if any(kinds.get(v) == small for v in (*n.input, *n.output))}


def small_products(model):
    """How many products are in float16."""
    kinds = types(model)
    return sum(kinds.get(node.input[1]) == FLOAT16 for node in model.graph.node if node.op_type == "MatMul")


def cast_weights(model):
    """Weights that are stored in one type and used in another."""
    stored = {i.name for i in model.graph.initializer}
    return [n.input[0] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in stored]


def test_a_graph_in_fp16_is_the_student(halved):
    folder, graph = halved
    assert [(p.batch, p.draws) for p in graph.parity] == [(1, 1), *((batch, 8) for batch in range(1, 9))]
    assert 1e-6 < graph.difference < LIMIT
    seen, noise, _ = seen_and_noise(folder, 5, 4)
    file = folder / "onnx" / "student.onnx"
    ours = OnnxRunner(folder / "policy", file, draws=4, threads=1, provider="cpu", digest="").act(seen, noise)
    theirs = in_torch(folder, seen, noise)
    difference = np.abs(ours.all_normalised_BKHD - theirs.all_normalised_BKHD).max()
    assert 1e-6 < difference < LIMIT


def test_only_products_are_small_and_the_interface_is_not(halved):
    _, graph = halved
    for written in (graph, graph.pair.prefix, graph.pair.expert):
        model = onnx.load(str(written.file))
        stored = Counter(i.data_type for i in model.graph.initializer)
        assert stored[FLOAT16] >= 10
        assert small_operators(model, FLOAT16) <= {"Cast", "MatMul"}
        assert not cast_weights(model)
        assert {dtype for _, dtype, _ in written.inputs + written.outputs} <= {"float32", "int64", "bool"}


def test_the_pair_is_the_one_graph(halved, tiny):
    folder, graph = halved
    assert [p.batch for p in graph.pair.parity if p.draws == 8] == list(range(1, 9))
    _, noise, given = seen_and_noise(folder, 3, 8)
    kept = run(folder / "onnx" / "prefix.onnx", given)
    assert "state" not in kept
    assert ("state" in {name for name, _, _ in graph.pair.expert.inputs}) == (tiny.kind == "pi0")
    for some in (noise, noise[:, :5]):  # one prefix, several draws
        whole = run(folder / "onnx" / "student.onnx", given | {"noise": some})
        parts = run(folder / "onnx" / "expert.onnx", given | kept | {"noise": some})
        assert parts.keys() == whole.keys()
        assert np.allclose(parts["all_actions"], whole["all_actions"], atol=1e-3)
        assert np.allclose(parts["density"], whole["density"], atol=1e-2)


def test_the_documents_example_runs(halved, tmp_path, monkeypatch):
    folder, _ = halved
    text = (REPOSITORY / "docs" / "onnx.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "student-export").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    scope = {"observations": tiny_smolvla.observations(2)}
    exec(code, scope)
    assert [chunk.shape for chunk in scope["chunks"]] == [(2, tiny_smolvla.CHUNK, tiny_smolvla.ACTION_DIM)] * 3
    assert not np.array_equal(scope["chunks"][0], scope["chunks"][1])


def test_the_manifest_says_what_was_written(halved):
    folder, graph = halved
    said = describe(graph, folder)
    assert said == OnnxDescription.model_validate_json(said.model_dump_json(by_alias=True))
    assert (said.file, said.provider) == ("onnx/student.onnx", CPU)
    assert (said.pair.prefix.file, said.pair.expert.file) == ("onnx/prefix.onnx", "onnx/expert.onnx")
    assert [t.name for t in said.pair.prefix.outputs][:3] == ["prefix_mask", "key_0", "value_0"]
    assert said.pair.expert.inputs[-1].name == "noise"
    assert said.pair.expert.inputs[-1].shape[:2] == ["batch", "draws"]


def test_a_graph_in_bf16_is_the_student_where_its_kernels_are(tiny, tmp_path):
    """ONNX Runtime has none on the CPU, so ONNX's own reference computes it here."""
    student = a_student(tiny)
    student.save(tmp_path / "policy")
    batch, file = export_batch(student, tiny.frames(student)), tmp_path / "onnx" / "student.onnx"
    with pytest.raises(PrecisionLost, match=r"spec\.export\.precision.*does not run in bf16 on CPU.*MatMul.*fp32"):
        export(student, batch, file, ExportPlan("bf16"))
    model = onnx.load(str(file))
    assert small_operators(model, BFLOAT16) <= {"Cast", "MatMul"}
    assert not cast_weights(model)
    seen, noise, given = seen_and_noise(tmp_path, 2, 3)
    feeds = {i.name: given[i.name] for i in model.graph.input}
    found = ReferenceEvaluator(model).run(["all_actions"], feeds)[0]
    difference = np.abs(found - in_torch(tmp_path, seen, noise).all_normalised_BKHD).max()
    assert 1e-5 < difference < LIMIT
    with pytest.raises(UserError, match=r"provider: .* cannot run student\.onnx on CPU.*MatMul.*fp16 or fp32"):
        OnnxRunner(tmp_path / "policy", file, draws=None, threads=1, provider="cpu", digest="")


class Wide(torch.nn.Module):
    """A network with a weight beyond what the exporter folds by itself."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(600, 500)))

    def forward(self, named):
        return (self.model(named["x"]),)


@pytest.mark.parametrize(("precision", "small"), [("fp16", FLOAT16), ("bf16", BFLOAT16)])
def test_large_weights_are_stored_small(tmp_path, precision, small):
    example = Example({"x": torch.randn(2, 600)}, None, ("y",))
    model = onnx.load(str(write(Wide().eval(), example, tmp_path / "wide.onnx", Products(precision)).file))
    stored = {i.data_type: np.prod(i.dims) for i in model.graph.initializer}
    assert stored[small] == 600 * 500
    assert not cast_weights(model)
    assert "Transpose" not in {node.op_type for node in model.graph.node}
    assert (tmp_path / "wide.onnx").stat().st_size < 2.1 * 600 * 500


@pytest.fixture(scope="module")
def smolvla(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("smolvla"))


def stored_as(folder, dtype):
    folder.mkdir()
    tensors = {"a": torch.zeros(100, dtype=dtype), "b": torch.zeros(30), "c": torch.zeros(1, dtype=torch.int64)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_auto_is_the_teachers_type_where_that_runs(tmp_path, caplog):
    auto = Export(split=True)
    assert plan_export(auto, stored_as(tmp_path / "single", torch.float32)) == ExportPlan(split=True)
    half = plan_export(auto, stored_as(tmp_path / "half", torch.float16))
    assert half == ExportPlan("fp16", CPU, split=True, or_fp32=True)
    with caplog.at_level(logging.WARNING):
        assert plan_export(auto, stored_as(tmp_path / "brain", torch.bfloat16)) == ExportPlan(split=True)
    assert "stored in bf16, but ONNX Runtime" in caplog.text
    assert "no bf16 kernel for MatMul in CPUExecutionProvider; the graph will be fp32" in caplog.text


def test_what_is_asked_for_is_given_or_refused(tmp_path):
    brain = stored_as(tmp_path / "brain", torch.bfloat16)
    assert plan_export(Export(precision="fp32"), brain) == ExportPlan()
    assert plan_export(Export(precision="fp16"), brain) == ExportPlan("fp16", CPU)
    with pytest.raises(UserError, match=r"spec\.export\.precision: .* no bf16 kernel for MatMul") as refused:
        plan_export(Export(precision="bf16"), brain)
    assert refused.value.reason == "NoKernels"


class Deep(torch.nn.Module):
    """Three layers, of which the first gives what the second's float16 products have no room for."""

    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(3))))
        with torch.no_grad():
            self.model[0][1].weight *= factor
            self.model[0][2].weight /= factor

    def forward(self, named):
        return (self.model(named["x"]),)


def normal(seed, size=2):
    return {"x": torch.randn(size, 16, generator=torch.Generator().manual_seed(seed))}


@pytest.mark.parametrize(
    ("spoil", "large"),
    [
        (lambda layers: None, ()),
        (lambda layers: layers[1].weight.mul_(1e5), ("0.1", "0.2")),  # its products, and what the next one takes
        (lambda layers: layers[2].weight.mul_(1e6), ("0.2",)),
        (lambda layers: layers[2].bias.fill_(1e6), ()),  # is added in float32
        (lambda layers: layers[1].weight[0].fill_(float("nan")), ("0.1", "0.2")),
    ],
)
def test_layers_with_large_numbers_are_found(spoil, large):
    network = Deep(1.0)
    with torch.no_grad():
        spoil(network.model[0])
    found = fp16_products(network.model, lambda: [network(normal(seed)) for seed in range(3)])
    assert found == Products("fp16", large, 3)


def test_a_number_that_one_observation_has_is_enough():
    network = Deep(1.0)
    large = {"x": normal(1)["x"] * 1e5}
    for order in ([normal(1), large], [large, normal(1)]):
        assert "0.0" in fp16_products(network.model, lambda order=order: [network(x) for x in order]).float32


def test_a_layer_that_overflows_stays_float32(tmp_path):
    network = Deep(1e6).eval()
    islands = fp16_products(network.model, lambda: network(normal(1)))
    assert islands == Products("fp16", ("0.1", "0.2"), 3)
    fresh = normal(2, 8)
    with torch.no_grad():
        expected = network(fresh)[0].numpy()
    example = Example(normal(0), None, ("y",))
    for name, products, close in (("kept", islands, True), ("all", Products("fp16"), False)):
        file = write(network, example, tmp_path / f"{name}.onnx", products).file
        assert np.allclose(run(file, {"x": fresh["x"].numpy()})["y"], expected, rtol=1e-2, atol=1e-2) == close
    model = onnx.load(str(tmp_path / "kept.onnx"))
    kinds = types(model)
    multiplied = Counter(kinds[n.input[0]] for n in model.graph.node if n.op_type in {"MatMul", "Gemm"})
    assert multiplied == {FLOAT16: 1, onnx.TensorProto.FLOAT: 2}


def overflowing(tiny):
    """The same function in float32; in float16 an MLP's products are infinite."""
    student = a_student(tiny)
    name, mlp = next(
        (name, module)
        for name, module in student.policy.model.named_modules()
        if any(part in name for part in ("lm_expert.", "gemma_expert.")) and name.endswith("layers.0.mlp")
    )
    with torch.no_grad():
        mlp.up_proj.weight *= 1e7
        mlp.down_proj.weight *= 1e-7
    return student, [f"{name}.down_proj", f"{name}.up_proj"]


def test_what_overflows_stays_fp32_and_the_rest_is_fp16(tiny, halved, tmp_path, caplog):
    student, large = overflowing(tiny)
    frames, asked = tiny.frames(student), ExportPlan("fp16", split=True)
    rehearse(student, export_batch(student, frames), tmp_path / "rehearsal", asked, probe_batch(student, frames))
    with caplog.at_level(logging.WARNING):
        graph = build_folder(tmp_path / "student", student, frames, plan=asked)
    assert (graph.plan, list(graph.products.float32)) == (asked, large)
    assert f"2 of {graph.products.count} linear layers stay fp32" in caplog.text
    assert ", ".join(large) in caplog.text
    assert [p.batch for p in graph.parity] == [1, *range(1, 9)]
    assert 1e-6 < graph.difference < LIMIT
    said = describe(graph, tmp_path / "student")
    assert (said.float32_products, said.products) == (large, graph.products.count)
    model = onnx.load(str(graph.file))
    assert small_operators(model, FLOAT16) <= {"Cast", "MatMul"}
    assert small_products(model) == small_products(onnx.load(str(halved[1].file))) - 2
    seen, noise, given = seen_and_noise(tmp_path / "student", 3, 4)
    expected = in_torch(tmp_path / "student", seen, noise).all_normalised_BKHD
    kept = run(tmp_path / "student" / "onnx" / "prefix.onnx", given)
    parts = run(tmp_path / "student" / "onnx" / "expert.onnx", given | kept)
    for found in (run(graph.file, given)["all_actions"], parts["all_actions"]):
        assert np.abs((found - expected)[..., : tiny_smolvla.ACTION_DIM]).max() < LIMIT


def blind(monkeypatch):
    """Nothing is seen to overflow, as when frames are larger than all that were tried."""
    monkeypatch.setattr(watched, "ROOM", 1e-30)


def test_an_overflow_that_was_not_foreseen_is_found_before_training(smolvla, tmp_path, monkeypatch):
    student, _ = overflowing(smolvla)
    frames = smolvla.frames(student)
    batch, probe, asked = export_batch(student, frames), probe_batch(student, frames), ExportPlan("fp16")
    blind(monkeypatch)
    with pytest.raises(PrecisionLost, match=r"spec\.export\.precision: .*not finite in fp16; choose fp32"):
        rehearse(student, batch, tmp_path / "rehearsal", asked, probe)
    assert not (tmp_path / "rehearsal").exists()
    assert student.policy.model.folded_time_1E is None
    for plan in (ExportPlan(), replace(asked, or_fp32=True)):  # nothing to try
        rehearse(student, {}, tmp_path / "rehearsal", plan, {})


def test_auto_falls_back_to_fp32_in_the_end(smolvla, tmp_path, caplog, monkeypatch):
    student, _ = overflowing(smolvla)
    blind(monkeypatch)
    graph = build_folder(tmp_path, student, smolvla.frames(student), plan=ExportPlan("fp16", or_fp32=True))
    assert (graph.plan.precision, graph.plan.provider) == ("fp32", CPU)
    assert graph.difference < 1e-3
    assert "not finite in fp16" in caplog.text
    assert not small_operators(onnx.load(str(graph.file)), FLOAT16)


def test_a_student_of_which_no_layer_fits_is_refused(smolvla, tmp_path, monkeypatch):
    student = a_student(smolvla)
    monkeypatch.setattr(watched, "ROOM", 1e30)
    with pytest.raises(PrecisionLost, match=r"spec\.export\.precision: .*all \d+ linear layers.*fp16; choose fp32"):
        build_folder(tmp_path, student, smolvla.frames(student), plan=ExportPlan("fp16"))


def test_fp16_without_observations_to_probe_is_a_mistake(smolvla, tmp_path):
    student = a_student(smolvla)
    with pytest.raises(ValueError, match="observations to probe"):
        export(student, export_batch(student, smolvla.frames(student)), tmp_path / "s.onnx", ExportPlan("fp16"))
