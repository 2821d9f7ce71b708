"""The optimizer's steps and the average after them, held against both by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flowstill.api.distilljob import Training
from flowstill_trainer.learner import Learner
from flowstill_trainer.processes import Processes

SETTINGS = {"optimizer_betas": (0.7, 0.8), "optimizer_eps": 1e-2, "optimizer_weight_decay": 0.5}
RATES = (0.1, 0.3, 0.05)


class Toy:
    """As much of a policy as a learner needs: a linear layer that is trained, and one that is not."""

    device = torch.device("cpu")

    def __init__(self):
        self.policy = nn.Module()
        self.policy.config = SimpleNamespace(**SETTINGS)
        self.policy.layer, self.policy.frozen = nn.Linear(3, 2), nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))

    def trained(self):
        return [(name, p) for name, p in self.policy.named_parameters() if name.startswith("layer.")]

    def loss(self, x_B3):
        return self.policy.layer(x_B3).square().sum()


def learner(clip=1000.0, ema=0.0, loss=None, policy=None):
    policy = policy or Toy()
    training = Training(learning_rate=1.0, gradient_clip=clip)
    return Learner(policy, loss or policy.loss, Processes(), training, ema=ema)


def batches(seed, count=2):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn((4, 3), generator=random) for _ in range(count)]


def update(one, seed, rate):
    return one.update([lambda x=x: x for x in batches(seed)], rate)


def weights(one):
    return {name: p.detach().clone() for name, p in one.parameters.items()}


@pytest.mark.parametrize("clip", [0.5, 1000.0])
def test_updates_are_adamw_with_the_policys_settings_on_the_clipped_sum_of_all_parts(clip):
    one, theirs = learner(clip), Toy()
    parameters = [p for _, p in theirs.trained()]
    betas, eps, decay = SETTINGS.values()
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for number, rate in enumerate(RATES, 1):
        loss = sum(theirs.loss(x) for x in batches(number))
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        assert norm > 0.5
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                g = g * min(1.0, clip / norm)
                m.lerp_(g, 1 - betas[0])
                v.lerp_(g.square(), 1 - betas[1])
                p.mul_(1 - rate * decay)
                p.sub_(rate * (m / (1 - betas[0] ** number)) / ((v / (1 - betas[1] ** number)).sqrt() + eps))
        assert update(one, number, rate) == pytest.approx(float(loss), rel=1e-5)
        for (name, expected), found in zip(theirs.trained(), one.parameters.values(), strict=True):
            assert torch.allclose(found, expected, atol=1e-5), (number, name)


def test_the_average_follows_every_update_and_forgets_the_first_ones_sooner():
    one = learner(ema=0.9)
    expected = weights(one)
    for step, decay in ((1, 2 / 11), (2, 3 / 12), (500, 0.9)):
        update(one, step, 0.1)
        before = {name: value.clone() for name, value in one.average.items()}
        one.follow(step)
        for name, value in one.parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach()
            assert torch.allclose(one.average[name], expected[name], atol=1e-6), (step, name)
            assert not torch.allclose(before[name], expected[name], atol=1e-4)
    assert one.published() is one.average
    plain = learner()
    plain.follow(1)
    assert plain.average == {}
    assert plain.published() is plain.parameters


def test_what_was_saved_goes_on_bit_for_bit():
    one = learner(ema=0.9)
    for number in (1, 2):
        update(one, number, 0.1)
        one.follow(number)
    found = one.learned()
    saved = type(found)(*({name: value.clone() for name, value in part.items()} for part in vars(found).values()))
    again = learner(ema=0.9)
    again.restore(saved)
    for each in (one, again):
        update(each, 3, 0.1)
        each.follow(3)
    for part in ("weights", "average", "moments"):
        here, there = getattr(one.learned(), part), getattr(again.learned(), part)
        assert here.keys() == there.keys() != set()
        assert all(torch.equal(value, there[name]) for name, value in here.items()), part


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda policy: policy.layer.weight.mul(0).abs().sqrt().sum(), "loss 0.0, gradient norm nan"),
        (lambda policy: policy.layer.weight.sum() + torch.inf, "loss inf, gradient norm "),
    ],
    ids=["gradient", "loss"],
)
def test_what_is_not_finite_changes_nothing(spoil, says):
    policy = Toy()
    one = learner(policy=policy, loss=lambda x: policy.loss(x) if x is not None else spoil(policy.policy))
    clean = learner()
    before = weights(one)
    with pytest.raises(FloatingPointError, match=says):
        one.update([lambda: None], 0.1)
    assert all(torch.equal(value, before[name]) for name, value in one.parameters.items())
    for each in (one, clean):
        update(each, 1, 0.1)
    assert all(torch.equal(value, clean.parameters[name]) for name, value in one.parameters.items())
