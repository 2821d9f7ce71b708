"""Distribution matching: the student's gradient, term by term, and that fake and teacher see what they should."""

from types import SimpleNamespace

import pytest
import torch

from flowstill_trainer.methods.dmd import (
    HIGHEST_TIME,
    LOWEST_TIME,
    Draw,
    direction,
    draw,
    fake_loss,
    student_chunk,
    surrogate,
)

B, H, D, A = 3, 5, 6, 4


class Recorded:
    """A net whose velocity is given, and that remembers what it was asked."""

    padded_action_dim, action_dim = D, A

    def __init__(self, velocity):
        self.answer = velocity

    def velocity(self, prefix, x_t, t, s=None, *, any_pair=False):
        self.asked = SimpleNamespace(x_t=x_t, t=t, s=s)
        return self.answer


def numbers(seed=0):
    random = torch.Generator().manual_seed(seed)
    start, noise = torch.randn((2, B, H, D), generator=random)
    return Draw(start, noise, torch.tensor([0.1, 0.5, 0.9]))


def test_the_gradient_of_the_surrogate_is_the_papers_by_hand():
    fake, teacher = (Recorded(velocity) for velocity in torch.randn((2, B, H, D)))
    chunk, drawn = torch.randn((B, H, D), requires_grad=True), numbers()
    surrogate(chunk[..., :A], direction(fake, teacher, None, chunk, drawn)).backward()
    for row in range(B):
        t, a = float(drawn.t_B[row]), chunk.detach()[row]
        x_t = t * drawn.noise_BHD[row] + (1 - t) * a
        to_fake, to_teacher = x_t - t * fake.answer[row], x_t - t * teacher.answer[row]
        weight = 1 / (a - to_teacher)[:, :A].abs().mean()
        expected = weight * (to_fake - to_teacher)[:, :A] / (B * H * A)
        assert torch.allclose(chunk.grad[row, :, :A], expected, rtol=1e-4, atol=1e-7)
        assert torch.allclose(fake.asked.x_t[row], x_t, atol=1e-6)
        assert torch.equal(fake.asked.x_t, teacher.asked.x_t)
    assert not chunk.grad[..., A:].any()
    assert fake.asked.s is None


def test_the_student_moves_from_the_fakes_data_to_the_teachers():
    """Velocities point from data to noise, so a larger one points at smaller data."""
    fake, teacher = Recorded(torch.zeros(B, H, D)), Recorded(torch.full((B, H, D), -1.0))
    found = direction(fake, teacher, None, torch.randn(B, H, D), numbers())
    assert (found < 0).all()  # the teacher's data are larger, and descending makes the chunk larger


def test_the_value_is_half_the_mean_square_and_an_equal_pair_gives_none():
    found = torch.randn(B, H, A)
    chunk = torch.randn((B, H, A), requires_grad=True)
    assert float(surrogate(chunk, found).detach()) == pytest.approx(float(found.square().mean()) / 2, rel=1e-4)
    net = Recorded(torch.randn(B, H, D))
    assert not direction(net, net, None, torch.randn(B, H, D), numbers()).any()


def test_the_fake_regresses_to_noise_minus_chunk_on_real_dimensions_and_moves_no_student():
    chunk, drawn = torch.randn((B, H, D), requires_grad=True), numbers()
    perfect = (drawn.noise_BHD - chunk.detach()).clone()
    perfect[..., A:] += 10.0
    net = Recorded(perfect.requires_grad_())
    assert fake_loss(net, None, chunk, drawn).detach() == 0
    shifted = Recorded((perfect.detach() + 2.0).requires_grad_())
    loss = fake_loss(shifted, None, chunk, drawn)
    assert float(loss.detach()) == pytest.approx(4.0, rel=1e-5)
    loss.backward()
    assert chunk.grad is None
    assert not shifted.answer.grad[..., A:].any()
    t = drawn.t_B[:, None, None]
    assert torch.allclose(net.asked.x_t, t * drawn.noise_BHD + (1 - t) * chunk.detach())


def test_a_chunk_is_the_jump_to_zero_and_its_padding_is_zero(tiny):
    """Held against the plugin's own jump, which is what is exported."""
    student = tiny.student(tiny.teacher())
    torch.manual_seed(3)
    for name, parameter in student.trained():
        if "target_time.output" in name:  # so that it matters where to the jump goes
            torch.nn.init.normal_(parameter, std=0.1)
    prefix = student.encode_prefix(tiny.batch(student))
    start = torch.randn((4, student.chunk_size, student.padded_action_dim))
    chunk = student_chunk(student, prefix, start)
    real = student.action_dim
    assert torch.allclose(chunk[..., :real], student.chunk(prefix, start, 1)[..., :real], atol=1e-6)
    assert chunk.shape == start.shape
    assert not chunk[..., real:].any()
    assert chunk.requires_grad


def test_draws_are_fresh_and_their_times_fill_the_papers_range(tiny):
    teacher = tiny.teacher()
    random = torch.Generator().manual_seed(0)
    one, two = draw(teacher, 2000, random), draw(teacher, 2000, random)
    assert not torch.equal(one.start_BHD, one.noise_BHD)
    assert not torch.equal(one.noise_BHD, two.noise_BHD)
    assert LOWEST_TIME <= one.t_B.min() < 0.03
    assert 0.97 < one.t_B.max() <= HIGHEST_TIME
    assert one.t_B.mean() == pytest.approx(0.5, abs=0.03)
