"""The pointer learns from captions alone where a thing is; what it has not learned is a miss."""

import torch

from augment_synth.pointer import pooled, train_pointer


def dotted(count: int) -> tuple[torch.Tensor, torch.Tensor, list[list[str]]]:
    """Noise with a red disc in a third of the images and a bar in another; masks of the discs; phrases."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(60, 120, (count, 3, 24, 32), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    masks = torch.zeros(count, 24, 32, dtype=torch.bool)
    phrases: list[list[str]] = []
    for image in range(count):
        top, left = torch.randint(5, 19, (2,), generator=generator).tolist()
        if image % 3 == 0:
            masks[image] = (rows - top) ** 2 + (columns - left) ** 2 <= 12
            images[image][:, masks[image]] = torch.tensor([[240], [20], [20]])
        if image % 3 == 1:
            images[image, :, top, :] = torch.tensor([[20], [20], [250]])
        phrases.append([["red ball"], ["bar"], []][image % 3])
    return images.byte(), masks, phrases


def test_it_points_at_what_captions_name() -> None:
    images, masks, phrases = dotted(180)
    pointer = train_pointer(images, phrases, steps=60, seed=0)
    found = pointer.ground(images[:60], phrases[:60])
    discs = [(masks[k], own[0]) for k, own in enumerate(found) if k % 3 == 0]
    hits = [true[mask].float().mean() for true, mask in discs if mask is not None]
    assert len(hits) >= 15  # of 20
    assert sum(hits) / len(hits) > 0.3  # the disc covers 0.05 of the image
    covered = [(mask & true).sum() / true.sum() for true, mask in discs if mask is not None]
    assert sum(covered) / len(covered) > 0.7
    assert pointer.ground(images[:1], [["dragon"]]) == [[None]]
    assert "red ball" in pointer.component.version


def test_nothing_common_enough() -> None:
    images, _, _ = dotted(30)
    pointer = train_pointer(images, [["ball"]] * 30, steps=1, seed=0)
    assert pointer.ground(images[:2], [["ball"], []]) == [[None], []]


def test_pooling_lies_between_mean_and_maximum() -> None:
    scores = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    found, places = pooled(scores), scores.flatten(2)
    assert (found <= places.amax(2)).all()
    assert (found >= places.mean(2)).all()
