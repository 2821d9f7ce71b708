"""What every policy of LeRobot that Flowstill distills has in common; a module a policy says what differs."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lerobot_policy_flowstill.heads import drop_heads, without_heads
from lerobot_policy_flowstill.prefix import Prefix, Prepared
from lerobot_policy_flowstill.target_time import check_times
from lerobot_policy_flowstill.tokenizer_step import embed_tokenizer
from torch import Tensor, nn

from flowstill.errors import TeacherRejected, UserError
from flowstill.policies import checkpoints
from flowstill.policies.cameras import features_shown, never_shown, real_cameras
from flowstill.policies.flow import euler
from flowstill.policies.pipelines import rename_map, statistics, tokenizer_step, with_state_noise
from flowstill.policies.tensors import Stored, load_tensors

logger = logging.getLogger(__name__)


class LeRobotFlow(ABC):
    """A checkpoint of one policy, teacher or student, with its own processors: a :class:`FlowPolicy`.

    Attributes:
        teacher_type: LeRobot's type.
        student_type: the plugin's type.
        steps_option: the configuration's name for the number of denoising steps.
        trained_parts: beginnings of the names that distillation changes.
        offers_state_out: whether a student can take its state out of the prompt.
        preprocessor: from raw observations and actions to the network's.
        postprocessor: from normalised actions to the robot's units.
    """

    teacher_type: ClassVar[str]
    student_type: ClassVar[str]
    steps_option: ClassVar[str]
    trained_parts: ClassVar[tuple[str, ...]]
    offers_state_out: ClassVar[bool] = False

    def __init__(self, policy: Any, preprocessor: Any, postprocessor: Any) -> None:
        self.policy, self.preprocessor, self.postprocessor = policy.eval(), preprocessor, postprocessor
        config = policy.config
        self.policy_type: str = config.type
        self.is_student = self.policy_type == self.student_type
        self.device = torch.device(config.device)
        self.chunk_size: int = config.chunk_size
        self.action_steps: int = config.n_action_steps
        self.padded_action_dim: int = config.max_action_dim
        self.action_dim: int = config.action_feature.shape[0]
        self.state_dim: int = config.robot_state_feature.shape[0]
        self.cameras = real_cameras(config.image_features)
        self.renamed: Mapping[str, str] = rename_map(preprocessor)
        self.shown = features_shown(statistics(preprocessor), self.renamed)
        self.steps: int = getattr(config, self.steps_option)
        self.draws: int = config.draws if self.is_student else 1
        self.neighbours: int = config.draw_neighbours if self.is_student else 3
        self.multi_step: bool = config.multi_step if self.is_student else True
        self.state_out: bool = self.is_student and self.offers_state_out and config.state_out
        tokenizer = tokenizer_step(preprocessor)
        self.token_length: int = config.tokenizer_max_length
        self.fixed_length: bool = tokenizer.padding == "max_length"

    @classmethod
    @abstractmethod
    def policy_class(cls, kind: str) -> Any:
        """LeRobot's class of the teacher's type, the plugin's of the student's."""

    @classmethod
    @abstractmethod
    def adapt_config(cls, config: Any, folder: Path, field: str) -> None:
        """Change what must be another here than on the machine that trained; refuse what is not supported."""

    @classmethod
    def tokenizer(cls, config: Any) -> str | None:
        """Where the tokenizer is; None: where the processor says."""
        return None

    @classmethod
    def unbuilt(cls, config: Any, error: Exception) -> str:
        """What to do when LeRobot cannot build the network, of which nothing is read yet."""
        return f"LeRobot cannot build a {config.type} of this config.json ({checkpoints.first_line(error)})"

    @classmethod
    def rename(cls, policy: Any, stored: dict[str, Stored]) -> dict[str, Stored]:
        """LeRobot's own remapping of a file's names."""
        return stored

    def without_state(self, pipeline: Any) -> Any:
        """The preprocessor of a state-out student, whose prompt does not hold the state."""
        raise NotImplementedError

    @abstractmethod
    def prepared(self, batch: Mapping[str, Any]) -> Prepared:
        """See :class:`FlowPolicy`."""

    @abstractmethod
    def encode(self, seen: Prepared) -> Prefix:
        """The VLM's part."""

    @abstractmethod
    def call_expert(self, prefix: Prefix, x_t_BHD: Tensor, timestep: Tensor) -> Tensor:
        """LeRobot's ``denoise_step``; ``timestep`` is (B,), for a student (B, 2) too."""

    @classmethod
    def load(cls, folder: Path, *, device: str, field: str, whole: bool = False) -> Self:
        """A checkpoint of either type, every tensor checked.

        ``whole`` keeps what no action is computed by, heads and cameras, for who saves the policy as LeRobot wants it.

        Raises:
            TeacherRejected: naming ``field``, what is wrong and what to do.
        """
        kind = checkpoints.check_folder(folder, {cls.teacher_type, cls.student_type}, field)
        config = checkpoints.read_config(folder, device, field)
        cls.adapt_config(config, folder, field)
        try:
            policy = cls.policy_class(kind)(config)
        except (OSError, ValueError, ImportError) as error:
            raise TeacherRejected(cls.unbuilt(config, error), field=field) from error
        policy.float()  # SmolVLA's expert has the type that its VLM's config names, and is trained here

        def rename(stored: dict[str, Stored]) -> dict[str, Stored]:
            return without_heads(policy, cls.rename(policy, stored))

        load_tensors(policy, folder / checkpoints.WEIGHTS, rename, field)
        if not whole:
            drop_heads(policy)  # after all of the file was checked
        policy.to(device).requires_grad_(False)
        flow = cls(policy, *checkpoints.load_processors(folder, config, cls.tokenizer(config), field))
        if not whole:
            flow._leave_out(never_shown(flow.cameras, flow.shown))
        return flow

    def _leave_out(self, cameras: tuple[str, ...]) -> None:
        """Look through the other cameras only, as in the policy's training."""
        if cameras:
            config = self.policy.config
            config.input_features = {k: v for k, v in config.input_features.items() if k not in cameras}
            self.cameras = real_cameras(config.image_features)
            logger.info("the policy's last training did not show it %s: left out", ", ".join(cameras))

    def preprocess(self, batch: Mapping[str, Any], state_noise_BS: Tensor | None = None) -> dict[str, Any]:
        """See :class:`FlowPolicy`."""
        pipeline = self.preprocessor
        if state_noise_BS is not None:
            pipeline = with_state_noise(pipeline, state_noise_BS)
        return dict(pipeline(dict(batch)))

    def prepare_action(self, batch: Mapping[str, Any]) -> Tensor:
        """See :class:`FlowPolicy`."""
        return self.policy.prepare_action(batch)

    def encode_prefix(self, batch: Mapping[str, Any]) -> Prefix:
        """See :class:`FlowPolicy`."""
        with torch.no_grad():
            return self.encode(self.prepared(batch))

    def velocity(
        self, prefix: Prefix, x_t_BHD: Tensor, t_B: Tensor, s_B: Tensor | None = None, *, any_pair: bool = False
    ) -> Tensor:
        """See :class:`FlowPolicy`. A teacher knows no s."""
        if s_B is not None and not self.is_student:
            raise ValueError("a teacher has no target time")
        if s_B is not None and not any_pair:
            check_times(t_B, s_B)
        timestep = t_B if s_B is None else torch.stack([t_B, s_B], dim=1)
        return self.call_expert(prefix, x_t_BHD, timestep).float()

    def jump(self, prefix: Prefix, noise_BKHD: Tensor) -> Tensor:
        """See :class:`FlowPolicy`."""
        return self.policy.model.jump(prefix, noise_BKHD)

    def chunk(self, prefix: Prefix, noise_BHD: Tensor, steps: int) -> Tensor:
        """See :class:`FlowPolicy`. Without gradient."""
        with torch.no_grad():
            if self.is_student and steps == 1:
                return self.jump(prefix, noise_BHD[:, None])[:, 0]
            return euler(self, prefix, noise_BHD, steps)

    def unnormalise(self, chunk_BHD: Tensor) -> Tensor:
        """Real dimensions in the robot's units, on the CPU."""
        return self.postprocessor(chunk_BHD[..., : self.action_dim].float()).cpu()

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """See :class:`FlowPolicy`."""
        for name, parameter in self.policy.named_parameters():
            parameter.requires_grad_(name.startswith(self.trained_parts))
            if name.startswith(self.trained_parts):
                yield name, parameter

    def save(self, folder: Path) -> None:
        """See :class:`FlowPolicy`."""
        if not self.is_student:
            raise ValueError("only students are saved")
        folder.mkdir(parents=True, exist_ok=True)
        self.policy.save_pretrained(folder)
        self.preprocessor.save_pretrained(folder)
        self.postprocessor.save_pretrained(folder)

    def make_student(
        self, *, draws: int, neighbours: int, action_steps: int | None, multi_step: bool, state_out: bool = False
    ) -> Self:
        """A student that starts as this teacher. What stays frozen is one module, shared by both.

        Raises:
            UserError: ``action_steps`` is longer than the chunk, or the state is not in this policy's prompt.
        """
        if state_out and not self.offers_state_out:
            raise UserError(
                f"the state of {self.teacher_type} is not in its prompt, so it cannot be taken out of it; "
                "leave stateOut false",
                field="spec.student.stateOut",
            )
        steps = action_steps or self.action_steps
        if steps > self.chunk_size:
            raise UserError(
                f"{steps} is more than the teacher's chunk of {self.chunk_size} steps",
                field="spec.student.actionSteps",
            )
        config = self.policy.config
        values = {f.name: copy.deepcopy(getattr(config, f.name)) for f in fields(config) if f.init}
        values |= {"draws": draws, "draw_neighbours": neighbours, "multi_step": multi_step, self.steps_option: 1}
        values |= {"n_action_steps": steps} | ({"state_out": True} if state_out else {})
        kind = self.policy_class(self.student_type)
        with torch.device("meta"):  # its tensors are the teacher's: no second model in memory
            policy = kind(kind.config_class(**values))
        _adopt(policy, self.policy, "", self.trained_parts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what is new depends on nothing that was drawn before
            policy.model.add_parts()
        policy.to(self.device)
        preprocessor = embed_tokenizer(self.preprocessor)
        if state_out:
            preprocessor = self.without_state(preprocessor)
        return type(self)(policy, preprocessor, copy.deepcopy(self.postprocessor))

    def copy_trained(self) -> Self:
        """See :class:`FlowPolicy`."""
        shared = {id(part): part for part in _frozen(self.policy, "", self.trained_parts)}
        policy = copy.deepcopy(self.policy, shared)  # what the memo names is taken as its own copy
        return type(self)(policy, self.preprocessor, self.postprocessor)


def _adopt(student: nn.Module, teacher: nn.Module, path: str, trained: tuple[str, ...]) -> None:
    """Give the student the teacher's modules: its own copies of what is trained, the others themselves."""
    for name, value in vars(teacher).items():
        if isinstance(value, Tensor):
            setattr(student, name, value)
    for name, part in teacher.named_children():
        inner = f"{path}{name}."
        if inner.startswith(trained):
            setattr(student, name, copy.deepcopy(part))
        elif any(beginning.startswith(inner) for beginning in trained):
            _adopt(getattr(student, name), part, inner, trained)
        else:
            setattr(student, name, part)
    if list(teacher.named_parameters(recurse=False)) or list(teacher.named_buffers(recurse=False)):
        raise NotImplementedError(f"{path or 'the policy'} has tensors of its own beside its modules")


def _frozen(module: nn.Module, path: str, trained: tuple[str, ...]) -> Iterator[nn.Module]:
    """The largest modules in which nothing is trained."""
    for name, part in module.named_children():
        inner = f"{path}{name}."
        if any(beginning.startswith(inner) for beginning in trained):
            yield from _frozen(part, inner, trained)
        elif not inner.startswith(trained):
            yield part
