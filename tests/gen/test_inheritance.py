import pytest
import torch
from tiny_models import pipeline_of, random_transformer, tiny_transformer

from gen.rpe2d.inheritance import inherit
from workbench.errors import UserError


def saved(folder, **changes):
    model = random_transformer(**changes)
    pipeline_of(model).save_pretrained(folder)
    return model


def test_another_resolution_and_range_start_from_the_same_weights(tmp_path):
    trained = saved(tmp_path)
    model = tiny_transformer(sample_size=(16, 16), max_positions=(20, 20))
    inherit(model, tmp_path)
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert tuple(model.config.sample_size) == (16, 16)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_layers": 3}, "num_layers is 2 there and 3 here"),
        ({"id2label": {0: "bag", 1: "coat", 2: "sock"}}, "id2label"),
        ({"patch_size": 4, "rope_theta": 50.0}, "patch_size .*, rope_theta"),
        ({"token_names": ("red",)}, "token_names"),
    ],
)
def test_another_model_is_refused_by_what_differs(tmp_path, changes, sentence):
    saved(tmp_path)
    with pytest.raises(UserError, match=f"cannot start from .*{sentence}"):
        inherit(tiny_transformer(**changes), tmp_path)


@pytest.mark.parametrize("encoding", ["table", "lff"])
def test_an_encoding_of_one_range_is_not_carried_to_another(tmp_path, encoding):
    saved(tmp_path, pos_embed_type=encoding)
    with pytest.raises(UserError, match=f"its {encoding} encoding belongs to its --max-positions 9x14"):
        inherit(tiny_transformer(pos_embed_type=encoding, max_positions=(20, 20)), tmp_path)
    inherit(tiny_transformer(pos_embed_type=encoding, sample_size=(16, 16)), tmp_path)


def test_what_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a trained pipeline"):
        inherit(tiny_transformer(), tmp_path)
