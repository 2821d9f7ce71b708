"""A published student in ONNX Runtime, without torch."""

from pathlib import Path
from typing import Any

import numpy as np

from flowstill.errors import UserError
from flowstill.policies.cameras import real_cameras
from flowstill.policies.interface import Chunks, Floats, Observations, RunnerInfo, camera_size
from flowstill.policies.numpy_processors import NumpyProcessors
from flowstill.policies.observed import check_call

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxRunner:
    """One call of the graph a chunk.

    Attributes:
        info: what it is.
    """

    def __init__(
        self, policy: Path, graph: Path, *, draws: int | None, threads: int | None, provider: str, digest: str
    ) -> None:
        import onnxruntime

        if provider not in PROVIDERS:
            raise UserError(f"{provider!r} is none of {', '.join(PROVIDERS)}", field="provider")
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        wanted = PROVIDERS[provider]
        if wanted not in onnxruntime.get_available_providers():
            raise UserError(
                f"this onnxruntime has no {wanted}; install onnxruntime-gpu or use provider='cpu'",
                field="provider",
            )
        self._session: Any = _session(graph, options, wanted)
        used = tuple(self._session.get_providers())
        if used[0] != wanted:  # onnxruntime falls back silently
            raise UserError(
                f"asked for {wanted}, but the session runs on {used[0]}; check the driver", field="provider"
            )
        self._processors = NumpyProcessors(policy)
        self._inputs = {i.name for i in self._session.get_inputs()}
        config = self._processors.config
        cameras = real_cameras(self._processors.image_keys)
        self.info = RunnerInfo(
            policy_type=config["type"],
            runtime="onnx",
            providers=used,
            steps=1,
            draws=draws or config["draws"],
            chunk_size=config["chunk_size"],
            action_dim=self._processors.action_dim,
            padded_action_dim=config["max_action_dim"],
            action_steps=config["n_action_steps"],
            state_dim=self._processors.state_dim,
            cameras=cameras,
            camera_sizes=tuple(camera_size(self._processors.shapes[name]) for name in cameras),
            digest=digest,
            renamed=self._processors.renamed,
        )

    def act(self, observations: Observations, noise_BKHD: Floats) -> Chunks:
        """One chunk an observation; of K draws the densest.

        Raises:
            UserError: the policy does not take this.
        """
        check_call(observations, noise_BKHD, self.info)
        inputs = self._processors.before(observations)
        inputs["noise"] = np.ascontiguousarray(noise_BKHD[:, : self.info.draws], dtype=np.float32)
        used = {name: value for name, value in inputs.items() if name in self._inputs}
        chosen_BHD, all_BKHD, index_B, density_BK = self._session.run(
            ["actions", "all_actions", "index", "density"], used
        )
        return Chunks(self._processors.after(chosen_BHD), chosen_BHD, all_BKHD, index_B, density_BK)


def _session(graph: Path, options: Any, provider: str) -> Any:
    """ONNX Runtime's session; a graph that the provider has no kernels for is the user's error."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=[provider])
    except NoKernel as error:
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {graph.name} on {provider} ({error}); run it on a GPU "
            "(provider='cuda'), or distil with export.precision fp16 or fp32",
            field="provider",
            reason="NoKernels",
        ) from error
