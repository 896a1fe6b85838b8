"""Classification against autograd and plain counting."""

from __future__ import annotations

import torch

from weir.core.task import Classification, Task

TASK: Task = Classification()
LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 0, 1, 2])


def test_the_loss_is_the_negative_log_likelihood_per_sample() -> None:
    by_hand = torch.stack([-row.softmax(0)[label].log() for row, label in zip(LOGITS, Y, strict=True)])
    torch.testing.assert_close(TASK.loss(LOGITS, Y), by_hand)


def test_the_residual_is_the_gradient_of_the_loss() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(TASK.loss(logits, Y).sum(), logits)
    torch.testing.assert_close(TASK.residual(LOGITS, Y), gradient)


def test_right_means_that_the_label_has_the_largest_logit() -> None:
    by_hand = [
        max(range(4), key=row.__getitem__) == label for row, label in zip(LOGITS.tolist(), Y.tolist(), strict=True)
    ]
    assert TASK.correct(LOGITS, Y).tolist() == by_hand


def test_the_reverse_divergence_exchanges_its_arguments() -> None:
    other = LOGITS.flip(0)
    assert torch.equal(TASK.reverse(LOGITS, other), TASK.discrepancy(other, LOGITS))
    assert not torch.equal(TASK.reverse(LOGITS, other), TASK.discrepancy(LOGITS, other))
    torch.testing.assert_close(TASK.midpoint(LOGITS, other), TASK.midpoint(other, LOGITS))
