"""Real implementations of the two interfaces: a mass on a line, and controllers."""

import numpy as np

from flowstill.policies.interface import Chunks, RunnerInfo
from flowstill_evaluator.suites.interface import Observation, StepResult

CHUNK, PADDED = 8, 6


class Line:
    """A point that moves by 0.1 × action towards 0, with a wall at ±2. Breaks when told to."""

    def __init__(self, task: str, breaks: dict[int, int] | None = None) -> None:
        self.task, self._breaks, self.closed = task, breaks if breaks is not None else {}, False

    def reset(self, seed: int) -> Observation:
        if self._breaks.get(seed, 0) > 0:
            self._breaks[seed] -= 1
            raise RuntimeError(f"cannot start {seed}")
        self._x = float(np.random.default_rng(seed).uniform(0.5, 1.5))
        self._steps = 0
        return self.observe()

    def step(self, action) -> StepResult:
        wanted = float(np.asarray(action, dtype=np.float64)[0])
        move = 0.1 * float(np.clip(wanted, -1, 1))
        self._x += move
        self._steps += 1
        success, touched = abs(self._x) < 0.06, abs(self._x) > 2
        done = success or touched or self._steps >= 40
        speed = np.array([move, 0.0])
        return StepResult(success, done, -abs(self._x), abs(wanted) > 1, speed, touched)

    def render(self) -> np.ndarray:
        return np.zeros((160, 160, 3), dtype=np.uint8)

    def close(self) -> None:
        self.closed = True

    def observe(self) -> Observation:
        return {"observation.state": np.array([self._x], dtype=np.float32)}


def info(draws: int = 1, state_dim: int = 1, action_dim: int = 1, cameras: tuple[str, ...] = ()) -> RunnerInfo:
    return RunnerInfo(
        policy_type="analytic",
        runtime="torch",
        providers=("cpu",),
        steps=1,
        draws=draws,
        chunk_size=CHUNK,
        action_dim=action_dim,
        padded_action_dim=PADDED,
        action_steps=4,
        state_dim=state_dim,
        cameras=cameras,
        camera_sizes=((32, 32),) * len(cameras),
        digest="sha256:" + "0" * 64,
    )


def as_chunks(all_BKHD: np.ndarray, action_dim: int) -> Chunks:
    """The draw nearest to the mean of all."""
    distance_BK = np.linalg.norm(all_BKHD - all_BKHD.mean(axis=1, keepdims=True), axis=(2, 3))
    index_B = distance_BK.argmin(axis=1)
    chosen_BHD = all_BKHD[np.arange(len(index_B)), index_B]
    return Chunks(chosen_BHD[:, :, :action_dim], chosen_BHD, all_BKHD, index_B, -distance_BK)


class LineController:
    """Drives the point towards 0 at a pace of its own, with some noise."""

    def __init__(self, gain: float = -1.0, noise: float = 0.1, draws: int = 1) -> None:
        self.info = info(draws)
        self.gain, self.noise = gain, noise
        self.batches: list[int] = []

    def act(self, observations, noise_BKHD) -> Chunks:
        x_B = observations["observation.state"][:, 0]
        self.batches.append(len(x_B))
        wanted = self.gain * np.sign(x_B)[:, None, None, None] + self.noise * noise_BKHD[:, : self.info.draws]
        return as_chunks(wanted.astype(np.float32), self.info.action_dim)


class ReachController:
    """Goes round the post on the side that the noise picks: the quickstart's task, solved by geometry."""

    def __init__(self, draws: int = 1) -> None:
        self.info = info(draws, state_dim=7, action_dim=4, cameras=("observation.images.top",))

    def act(self, observations, noise_BKHD) -> Chunks:
        state_BS = observations["observation.state"].astype(np.float64)
        side_BK = np.where(noise_BKHD[:, : self.info.draws].mean(axis=(2, 3)) > 0, 1.0, -1.0)
        # Once on the way round, the side is taken.
        beside_B = np.abs(state_BS[:, 0]) > 0.015
        side_BK = np.where(beside_B[:, None], np.sign(state_BS[:, :1]), side_BK)
        chunk = np.zeros((len(state_BS), self.info.draws, CHUNK, PADDED), dtype=np.float32)
        hand_BK3 = np.repeat(state_BS[:, None, :3], self.info.draws, axis=1)
        goal_B13 = state_BS[:, None, 4:7] + np.array([0.0, 0.0, 0.045])
        for step in range(CHUNK):
            height_BK = hand_BK3[..., 2]
            beside_BK3 = np.stack([0.17 * side_BK, np.full_like(side_BK, 0.62), height_BK], axis=-1)
            past_BK3 = np.stack([0.17 * side_BK, np.full_like(side_BK, 0.75), height_BK], axis=-1)
            far_BK1 = hand_BK3[..., 1:2]
            target = np.where(far_BK1 < 0.60, beside_BK3, np.where(far_BK1 < 0.72, past_BK3, goal_B13))
            direction = target - hand_BK3
            direction /= np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)
            chunk[:, :, step, :3] = 0.7 * direction
            hand_BK3 += 0.007 * direction
        return as_chunks(chunk, self.info.action_dim)
