"""Textual inversion on a tiny generator: one row learns, nothing else changes, and files are left as they are."""

from pathlib import Path

import pytest
import torch
from edit_rows import row

from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.personalise import Concept, new_images, personalise, sample_seed
from augment_synth.rpe2d_tokens import RPE2DTokens, _added, flow_loss, invert
from gen.rpe2d.pipeline import RPE2DPipeline, make_scheduler
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.pictures import encode_png, resize_images

WIDTH = 16


def network(*token_names: str) -> RPE2DTransformer2DModel:
    """An untrained one of two classes, whose output layer is not zero as a fresh one's is."""
    torch.manual_seed(0)
    transformer = RPE2DTransformer2DModel(
        sample_size=(8, 4), patch_size=2, num_layers=1, num_attention_heads=1, attention_head_dim=WIDTH, num_classes=2,
        max_positions=(8, 8), id2label={0: "bag", 1: "boot"}, token_names=token_names,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return transformer.eval()


@pytest.fixture
def pipe() -> RPE2DPipeline:
    """The network in its pipeline."""
    return RPE2DPipeline(network(), make_scheduler())


def batch(pipe: RPE2DPipeline, labels: list[int]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x_0, noise = torch.randn(2, 2, 3, 8, 4, generator=generator)
    return x_0, noise, torch.tensor([0.3, 0.7]), torch.tensor(labels)


def test_a_row_of_zeros_changes_nothing_and_the_empty_label_never_has_it(pipe: RPE2DPipeline) -> None:
    transformer = pipe.transformer
    x_0, noise, time, labels = batch(pipe, [0, 2])
    x_t = x_0 + noise
    plain = transformer(x_t, time * 1000, labels, return_dict=False)[0]
    with _added(transformer, torch.zeros(WIDTH)):
        assert torch.equal(transformer(x_t, time * 1000, labels, return_dict=False)[0], plain)
    with _added(transformer, torch.ones(WIDTH)):
        added = transformer(x_t, time * 1000, labels, return_dict=False)[0]
    assert not torch.equal(added[0], plain[0])
    assert torch.allclose(added[1], plain[1], atol=1e-6)  # label 2 is "no label": what guidance leads away from
    assert torch.equal(transformer(x_t, time * 1000, labels, return_dict=False)[0], plain)


def test_it_equals_a_row_in_the_table(pipe: RPE2DPipeline) -> None:
    """What the token adds is what a row of the generator's own table of tokens would."""
    with_table = network("new")
    with_table.load_state_dict(pipe.transformer.state_dict(), strict=False)
    embedding = torch.linspace(-1, 1, WIDTH)
    with_table.token_embed.weight.data[0] = embedding
    x_0, _, time, labels = batch(pipe, [0, 1])
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    expected = with_table(x_0, time * 1000, labels, token_ids=tokens, return_dict=False)[0]
    with _added(pipe.transformer, embedding):
        found = pipe.transformer(x_0, time * 1000, labels, return_dict=False)[0]
    torch.testing.assert_close(found, expected)


def test_only_the_row_learns(pipe: RPE2DPipeline) -> None:
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    images = torch.full((6, 3, 8, 4), 230, dtype=torch.uint8)
    embedding = invert(pipe.transformer, images, label=1, steps=30, seed=0)
    assert embedding.shape == (WIDTH,)
    assert all(torch.equal(value, before[name]) for name, value in pipe.transformer.state_dict().items())
    x_0 = images[:2].float() / 127.5 - 1
    _, noise, time, labels = batch(pipe, [1, 1])
    losses = [float(flow_loss(pipe.transformer, row, x_0, noise, time, labels)) for row in (embedding, 0 * embedding)]
    assert losses[0] < losses[1]


def test_learned_once_and_sampled_alike_in_any_batch(
    pipe: RPE2DPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = encode_png(torch.full((3, 8, 4), 200, dtype=torch.uint8))
    edits = [row(png=picture), row(png=picture, phrase="gravel")]
    learner = RPE2DTokens(pipe, num_inference_steps=2)
    concept = personalise(learner, 0, edits, 2, 0, tmp_path)
    assert (concept.removed, concept.edits) == ("grass, gravel", 2)
    monkeypatch.setattr("augment_synth.rpe2d_tokens.invert", lambda *_: pytest.fail("learned again"))
    assert torch.equal(personalise(learner, 0, edits, 2, 0, tmp_path).embedding, concept.embedding)
    made = learner.sample(0, concept.embedding, [5, 6, 7])
    assert made.shape == (3, 3, 8, 4)
    assert not torch.equal(learner.sample(0, concept.embedding + 1, [5, 6, 7]), made)
    monkeypatch.setattr("augment_synth.rpe2d_tokens.AT_ONCE", 2)
    assert (learner.sample(0, concept.embedding, [5, 6, 7]).int() - made.int()).abs().max() <= 1


def test_new_images_say_how_they_were_made(pipe: RPE2DPipeline, tmp_path: Path) -> None:
    config = DebiasConfig(data="", classifier="", output=tmp_path, generator="runs/mine")
    nothing = torch.empty(0, 3, 10, 6, dtype=torch.uint8)
    data = DebiasData(nothing, torch.empty(0, dtype=torch.int64), ("bag", "boot"), (), None, None, None, (), ())
    learner = RPE2DTokens(pipe, num_inference_steps=2)
    made = new_images(config, learner, Concept(1, "<1>", torch.zeros(WIDTH), "grass", 7, "abc"), 3, data)
    assert made.images.shape == (3, 3, 10, 6)
    assert [row["seed"] for row in made.rows] == [sample_seed(0, 1, number) for number in range(3)]
    facts = {name: made.rows[0][name] for name in ("generator", "guidance_scale", "generated_height", "concept_edits")}
    assert facts == {"generator": "runs/mine", "guidance_scale": 1.5, "generated_height": 8, "concept_edits": 7}
    again = learner.sample(1, torch.zeros(WIDTH), [row["seed"] for row in made.rows])
    assert torch.equal(resize_images(again, (10, 6)), made.images)


def test_other_weights_learn_another_token(pipe: RPE2DPipeline) -> None:
    before = RPE2DTokens(pipe, 2).hash
    next(pipe.transformer.parameters()).data += 1
    assert RPE2DTokens(pipe, 2).hash != before


def test_seeds_of_images_differ() -> None:
    assert len({sample_seed(0, label, number) for label in range(3) for number in range(40)}) == 120
