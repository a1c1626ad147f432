"""A VAE's latents: opening one, scaling, chunks, tiles."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel, configuration_utils
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tiny_vaes import certain_vae, tiny_vae

from gen import latents as module
from gen.latents import checksum, compression_factor, decode, encode, latent_channels, load_vae
from workbench.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS = ["AutoencoderKL", "AsymmetricAutoencoderKL", "VQModel", "AutoencoderTiny", "AutoencoderDC"]
PER_CHANNEL = {"latents_mean": [0.5, -1.0, 2.0], "latents_std": [0.5, 2.0, 4.0], "scaling_factor": 3.0}


def pictures(count=2, size=(8, 12)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def folder(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


# ------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_autoencoder_goes_there_and_back(kind, tmp_path):
    tiny_vae(kind).save_pretrained(tmp_path)
    vae = load_vae(tmp_path)
    latents = encode(vae, pictures(), generators(0, 1))
    assert compression_factor(vae) == 2
    assert latents.shape == (2, latent_channels(vae), 4, 6)
    assert decode(vae, latents).shape == (2, 3, 8, 12)
    assert not any(weight.requires_grad for weight in vae.parameters())
    assert not vae.training


@pytest.mark.parametrize(
    ("config", "shift", "scale"),
    [
        ({"scaling_factor": 2.0}, [0, 0, 0], [2, 2, 2]),
        ({"scaling_factor": 2.0, "shift_factor": 0.25}, [0.25] * 3, [2, 2, 2]),
        (PER_CHANNEL, [0.5, -1, 2], [6, 1.5, 0.75]),
    ],
)
def test_latents_are_shifted_and_scaled_as_the_config_says(config, shift, scale):
    vae = certain_vae(**config)
    mean = vae.encode(pictures()).latent_dist.mean
    expected = torch.stack([(mean[:, c] - shift[c]) * scale[c] for c in range(3)], 1)
    latents = encode(vae, pictures(), generators(0, 1))
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(decode(vae, latents), vae.decode(mean).sample)


def test_a_vae_without_constants_leaves_latents_alone():
    vae = tiny_vae("AutoencoderDC")
    torch.testing.assert_close(encode(vae, pictures(), None), vae.encode(pictures()).latent)


def test_a_sample_has_the_deviation_of_the_distribution():
    vae = tiny_vae(scaling_factor=2.0)
    images = pictures(1).expand(400, -1, -1, -1)
    latents = encode(vae, images, generators(*range(400)))
    distribution = vae.encode(pictures(1)).latent_dist
    torch.testing.assert_close(latents.mean(0), 2 * distribution.mean[0], atol=0.5, rtol=0)
    torch.testing.assert_close(latents.std(0), 2 * distribution.std[0], rtol=0.2, atol=0)


def test_a_sample_is_the_image_s_own_whatever_the_batch():
    vae = tiny_vae()
    together = encode(vae, pictures(3), generators(5, 6, 7))
    alone = encode(vae, pictures(3)[1:2], generators(6))
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.allclose(alone, encode(vae, pictures(3)[1:2], generators(8)), atol=0.01)


def test_latents_are_decoded_a_chunk_at_a_time(monkeypatch):
    vae = tiny_vae()
    latents = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    whole, seen, real = decode(vae, latents), [], vae.decode
    monkeypatch.setattr(vae, "decode", lambda part, **options: seen.append(len(part)) or real(part, **options))
    torch.testing.assert_close(decode(vae, latents, chunk_size=2), whole)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("size", [(4, 6), (6, 4)])
def test_large_images_are_decoded_in_tiles_and_small_ones_whole(size, monkeypatch):
    vae, states = tiny_vae(), []
    real = vae.decode
    monkeypatch.setattr(vae, "decode", lambda part, **options: states.append(vae.use_tiling) or real(part, **options))
    latents = torch.zeros(1, 3, *size)
    for limit in (12, 11):
        monkeypatch.setattr(module, "TILE_ABOVE", limit)
        assert decode(vae, latents).shape == (1, 3, 2 * size[0], 2 * size[1])
        assert not vae.use_tiling
    vae.enable_tiling()
    decode(vae, latents)
    assert vae.use_tiling  # as it was found
    assert states == [False, True, True]
    monkeypatch.setattr(module, "TILE_ABOVE", 1)
    assert decode(tiny_vae("VQModel"), torch.zeros(1, 5, 4, 6)).shape == (1, 3, 8, 12)  # which knows no tiles


# ------------------------------------------------------------------------------------------- opening


def test_a_pipeline_s_folder_will_do(folder):
    assert checksum(load_vae(folder.parent)) == checksum(load_vae(folder))


def test_the_checksum_tells_autoencoders_apart(folder):
    first = checksum(load_vae(folder))
    assert first == checksum(tiny_vae()) == checksum(load_vae(str(folder)))
    others = [tiny_vae(seed=1), tiny_vae(scaling_factor=1.0), tiny_vae(shift_factor=1.0), tiny_vae(**PER_CHANNEL)]
    assert len({first, *map(checksum, others)}) == 5


def refused(name, match):
    with pytest.raises(UserError, match=match) as error:
        load_vae(name)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert ";" in sentence


def test_a_missing_folder_is_a_sentence(tmp_path):
    refused(tmp_path / "none", r"there is no VAE in .*none; give a folder")
    refused(tmp_path, "there is no VAE")


@pytest.mark.parametrize("kind", ["UNet2DModel", "AutoencoderOfNothing", "ModelMixin", None])
def test_only_autoencoders_of_diffusers_are_opened(folder, kind):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": kind}))
    refused(folder, f"holds a {kind}, not a VAE")


def test_an_autoencoder_of_video_is_a_sentence(tmp_path):
    tiny_vae("AutoencoderKLCogVideoX").save_pretrained(tmp_path)
    refused(tmp_path, "AutoencoderKLCogVideoX that does not encode single images")


def test_damaged_files_are_a_sentence(folder):
    weights = folder / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    refused(folder, "cannot be loaded")
    tensors = load_file(save_whole(weights, content))
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    refused(folder, f"lacks 1 weights, such as {re.escape(name)}")
    save_file({**tensors, name: torch.zeros(2)}, weights)
    refused(folder, "cannot be loaded")
    (folder / "config.json").write_text("{")
    refused(folder, r"config.json of the VAE .* cannot be read")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("owner/name is not listed on the hub\nIf it is private, ..."), "owner/name is not listed on the hub;"),
        (LocalEntryNotFoundError("the network is off\n..."), "the network is off;"),
    ],
)
def test_the_reason_why_a_hub_gives_no_vae_is_told(error, told, monkeypatch):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(configuration_utils, "hf_hub_download", download)
    if not isinstance(error, LocalEntryNotFoundError):
        monkeypatch.setattr(AutoencoderKL, "load_config", download)
    refused("owner/name", told)


def save_whole(path, content):
    path.write_bytes(content)
    return path


def test_pickled_weights_are_not_opened(folder):
    (folder / WEIGHTS).unlink()
    torch.save(tiny_vae().state_dict(), folder / "diffusion_pytorch_model.bin")
    refused(folder, "cannot be loaded.*safetensors")


def test_other_models_are_refused_before_they_are_built(tmp_path, monkeypatch):
    monkeypatch.setattr(UNet2DModel, "from_pretrained", lambda *_, **__: pytest.fail("was built"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    refused(tmp_path, "not a VAE")
