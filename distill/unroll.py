"""The gradient of trajectory matching with respect to the images, their labels and the step size.

A student begins at an expert's weights theta_0 and takes N steps of plain SGD on the distilled set:

    g_k = grad_theta l_k(theta_k; images, labels),    theta_{k+1} = theta_k - step_size g_k
    Loss = |theta_N - target|^2 / |theta_0 - target|^2

The adjoint goes back from lambda_N = dLoss/dtheta_N one step at a time. Each step is computed again and differentiated
twice, so that its graph is all that is ever in memory, beside the vectors theta_0 ... theta_N:

    s_k = <g_k, lambda_{k+1}>                                    with lambda constant
    dLoss/dimages -= step_size ds_k/dimages     (likewise labels),     dLoss/dstep_size -= s_k
    lambda_k = lambda_{k+1} - step_size ds_k/dtheta

It is the gradient of the whole unroll exactly. TESLA (arXiv 2211.10586) leaves lambda at lambda_N, which is exact for a
single step only: `frozen`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from distill import augment
from distill.augment import Draw
from distill.config import GradMode
from distill.flat import FlatNetwork

Theta = Float[Tensor, " p"]
Images = Float[Tensor, "b c h w"]
Labels = Int64[Tensor, " b"] | Float[Tensor, "b k"]  # class numbers, or logits of soft labels


class Gradients(NamedTuple):
    """The loss of a match, and its derivatives."""

    loss: Float[Tensor, ""]
    images: Float[Tensor, "n c h w"]
    labels: Float[Tensor, "n k"] | None  # None for hard labels
    step_size: Float[Tensor, ""]


class StepGradients(NamedTuple):
    """Of s = <grad l, lambda> in one step: its value, and its derivatives."""

    value: Float[Tensor, ""]
    theta: Theta
    images: Images
    labels: Float[Tensor, "b k"] | None


def gradients(
    network: FlatNetwork,
    theta_start: Theta,
    target: Theta,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"] | Float[Tensor, "n k"],
    step_size: Float[Tensor, ""],
    batches: Sequence[Int64[Tensor, " _"]],
    draws: Sequence[Draw],
    mode: GradMode = "adjoint",
    compiled: bool = False,
    keep_every: int = 1,
) -> Gradients:
    """Loss and derivatives of len(batches) steps on the set, from `theta_start` towards `target`.

    Step k is on the rows `batches[k]`, augmented as `draws[k]` says. `compiled`: with torch.compile. `keep_every`: keep
    each so many-th of the vectors theta_k only, and compute the others again. Neither is for autograd.
    """
    images, labels, step_size = images.detach(), labels.detach(), step_size.detach()
    if mode == "autograd":
        return _through_the_unroll(network, theta_start, target, images, labels, step_size, batches, draws)
    gradient, differentiate = _compiled_steps(network) if compiled else _steps(network)

    def advance(theta: Theta, k: int) -> Theta:
        return theta - step_size * gradient(theta, augment.apply(images[batches[k]], draws[k]), labels[batches[k]])

    way = Way(advance, theta_start, len(batches), keep_every)
    distance, remains = (theta_start - target).square().sum(), way.end - target
    d_images, d_step_size = torch.zeros_like(images), torch.zeros_like(step_size)
    d_labels = torch.zeros_like(labels) if labels.is_floating_point() else None
    lam = 2 * remains / distance
    for k, theta in way.back():
        seen, pull_back = _augmented(images[batches[k]], draws[k])
        s = differentiate(theta, seen, labels[batches[k]], lam)
        d_images.index_add_(0, batches[k], -step_size * pull_back(s.images))
        if d_labels is not None and s.labels is not None:
            d_labels.index_add_(0, batches[k], -step_size * s.labels)
        d_step_size -= s.value
        if mode == "adjoint":
            lam = lam - step_size * s.theta
    return Gradients(remains.square().sum() / distance, d_images, d_labels, d_step_size)


class Way:
    """Where a student has been: its weights before each step, to be gone through backwards once."""

    def __init__(self, advance: Callable[[Theta, int], Theta], start: Theta, steps: int, keep_every: int) -> None:
        self.advance, self.steps, self.keep_every = advance, steps, keep_every
        self.kept: list[Theta] = []
        self.end = start
        for k in range(steps):
            if k % keep_every == 0:
                self.kept.append(self.end)
            self.end = advance(self.end, k)

    def back(self) -> Iterator[tuple[int, Theta]]:
        """Each step from the last to the first, with the weights before it."""
        for first in reversed(range(0, self.steps, self.keep_every)):
            stretch = [self.kept.pop()]
            for k in range(first, min(first + self.keep_every, self.steps) - 1):
                stretch.append(self.advance(stretch[-1], k))
            while stretch:
                yield first + len(stretch) - 1, stretch.pop()


def _through_the_unroll(
    network: FlatNetwork, theta_start: Theta, target: Theta, images: Tensor, labels: Tensor, step_size: Tensor,
    batches: Sequence[Tensor], draws: Sequence[Draw],
) -> Gradients:  # fmt: skip
    """By automatic differentiation of all steps at once: memory grows with their number."""
    soft = labels.is_floating_point()
    inputs = [value.clone().requires_grad_() for value in (images, step_size)]
    labels = labels.clone().requires_grad_(soft)
    theta = theta_start.detach().requires_grad_()
    for rows, drawn in zip(batches, draws, strict=True):
        loss = student_loss(network, theta, augment.apply(inputs[0][rows], drawn), labels[rows])
        (g,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - inputs[1] * g
    loss = (theta - target).square().sum() / (theta_start - target).square().sum()
    d_images, d_step_size, *d_labels = torch.autograd.grad(loss, [*inputs, *([labels] if soft else [])])
    return Gradients(loss.detach(), d_images, d_labels[0] if soft else None, d_step_size)


def student_loss(network: FlatNetwork, theta: Theta, images: Images, labels: Labels) -> Float[Tensor, ""]:
    """Cross-entropy with class numbers, or with the softmax of label logits."""
    target = labels.softmax(-1) if labels.is_floating_point() else labels
    return F.cross_entropy(network(theta, images), target)


# ---- one step -------------------------------------------------------------------------------------------------------

Step = tuple[Callable[[Theta, Images, Labels], Theta], Callable[[Theta, Images, Labels, Theta], StepGradients]]


def _steps(network: FlatNetwork) -> Step:
    """A step's gradient, and the derivatives of its product with lambda, by autograd."""

    def gradient(theta: Tensor, images: Tensor, labels: Tensor, create_graph: bool = False) -> Tensor:
        theta = theta if create_graph else theta.detach().requires_grad_()
        loss = student_loss(network, theta, images, labels)
        return torch.autograd.grad(loss, theta, create_graph=create_graph)[0]

    def differentiate(theta: Tensor, images: Tensor, labels: Tensor, lam: Tensor) -> StepGradients:
        soft = labels.is_floating_point()
        inputs = [value.detach().requires_grad_() for value in (theta, images, *([labels] if soft else []))]
        value = gradient(inputs[0], inputs[1], inputs[2] if soft else labels, create_graph=True) @ lam
        d_theta, d_images, *d_labels = torch.autograd.grad(value, inputs)
        return StepGradients(value.detach(), d_theta, d_images, d_labels[0] if soft else None)

    return gradient, differentiate


@lru_cache(maxsize=4)
def _compiled_steps(network: FlatNetwork) -> Step:
    """The same two, each compiled whole: derivatives inside, since compiled code cannot be differentiated twice."""

    def loss(theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return student_loss(network, theta, images, labels)

    def product(theta: Tensor, images: Tensor, labels: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.func.grad(loss)(theta, images, labels) @ lam
        return value, value

    def differentiate(theta: Tensor, images: Tensor, labels: Tensor, lam: Tensor) -> Any:
        inputs = (0, 1, 2) if labels.is_floating_point() else (0, 1)
        derivatives, value = torch.func.grad(product, inputs, has_aux=True)(theta, images, labels, lam)
        return value, derivatives

    compile_whole = torch.compile(fullgraph=True, dynamic=False)
    gradient, whole = compile_whole(torch.func.grad(loss)), compile_whole(differentiate)

    def step(theta: Tensor, images: Tensor, labels: Tensor, lam: Tensor) -> StepGradients:
        value, (d_theta, d_images, *d_labels) = whole(theta, images, labels, lam)
        return StepGradients(value, d_theta, d_images, d_labels[0] if d_labels else None)

    return gradient, step


def _augmented(images: Images, drawn: Draw) -> tuple[Images, Callable[[Images], Images]]:
    """The augmented images, and how a gradient comes back from them to the images."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        seen = augment.apply(leaf, drawn)

    def pull_back(gradient: Images) -> Images:
        return gradient if seen is leaf else torch.autograd.grad(seen, leaf, gradient)[0]

    return seen.detach(), pull_back
