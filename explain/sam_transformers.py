"""SAM and SAM 2 of the transformers library behind the one interface."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from explain.prompts import Prompts
from workbench.errors import UserError

MODELS = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}  # by model type
RELEASED = (  # looked for on this machine, the quickest first
    "facebook/sam2.1-hiera-tiny",
    "facebook/sam2.1-hiera-small",
    "facebook/sam2.1-hiera-base-plus",
    "facebook/sam-vit-base",
    "facebook/sam2.1-hiera-large",
    "facebook/sam-vit-large",
    "facebook/sam-vit-huge",
)


class TransformersEmbedding(NamedTuple):
    """Features of an image, its size, the size at which it was seen, and that of the frame it was padded to, if any."""

    features: Any
    size: tuple[int, int]
    seen_size: tuple[int, int]
    frame: tuple[int, int] | None


class TransformersSam:
    """A SAM or SAM 2 with its image processor: embed an image once, then ask for masks as often as wanted."""

    classical = False
    trained = True

    def __init__(self, model: Any, processor: Any, name: str, device: str | torch.device = "cpu") -> None:
        self.model, self.processor, self.name = model.to(device).eval(), processor, name
        self.device = torch.device(device)

    @torch.no_grad()
    def embed(self, image: UInt8[Tensor, "3 h w"]) -> TransformersEmbedding:
        """The costly part, once for an image."""
        inputs = self.processor([image.cpu().numpy()], input_data_format="channels_first", return_tensors="pt")
        pixels, padded = inputs["pixel_values"], "reshaped_input_sizes" in inputs  # SAM 2 squeezes instead
        frame = (pixels.shape[2], pixels.shape[3])
        height, width = inputs["reshaped_input_sizes"][0].tolist() if padded else frame
        features = self.model.get_image_embeddings(pixels.to(self.device))
        size = (image.shape[1], image.shape[2])
        return TransformersEmbedding(features, size, (height, width), frame if padded else None)

    @torch.no_grad()
    def masks(
        self, embedding: TransformersEmbedding, prompts: Prompts
    ) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, " n"]]:
        """Three masks at the image's size and the IoU that the network expects of each."""
        (height, width), (seen_height, seen_width) = embedding.size, embedding.seen_size
        scale = torch.tensor([seen_width / width, seen_height / height])
        given: dict[str, Tensor] = {}
        if prompts.points:
            given["input_points"] = (torch.tensor(prompts.points) * scale)[None, None]  # image, object, point
            given["input_labels"] = (torch.tensor(prompts.signs) > 0).long()[None, None]
        if prompts.box is not None:
            given["input_boxes"] = (torch.tensor(prompts.box) * scale.repeat(2))[None, None]
        given = {key: value.to(self.device) for key, value in given.items()}
        found = self.model(image_embeddings=embedding.features, multimask_output=True, **given)
        logits = found.pred_masks[0].float()
        if embedding.frame is not None:
            logits = F.interpolate(logits, embedding.frame, mode="bilinear", align_corners=False)
            logits = logits[..., :seen_height, :seen_width]
        large = F.interpolate(logits, embedding.size, mode="bilinear", align_corners=False)
        return (large[0] > 0).cpu(), found.iou_scores[0, 0].float().cpu()


def on_disk() -> str | None:
    """The first released model whose weights are in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    return next((name for name in RELEASED if isinstance(try_to_load_from_cache(name, "model.safetensors"), str)), None)


def open_transformers(name: str, device: str | torch.device = "cpu") -> TransformersSam:
    """A model from a folder or by its hub name, from this machine where it is there, else downloaded.

    Raises `UserError` where it is neither, for a model of another type, and for one that lacks weights.
    """
    try:
        return _open(name, device, local=True)
    except OSError as error:
        if Path(name).is_dir():
            raise UserError(f"{name} is no complete SAM or SAM 2 of transformers ({_first_line(error)})") from error
    try:
        return _open(name, device, local=False)
    except OSError as error:
        raise UserError(
            f"the weights of {name} are not on disk and could not be had ({_first_line(error)}): connect to the "
            "internet for the first use, or give --segmenter auto for what is here"
        ) from error


def _open(name: str, device: str | torch.device, local: bool) -> TransformersSam:
    import transformers

    config, _ = transformers.PretrainedConfig.get_config_dict(name, local_files_only=local)
    kind = config.get("model_type")
    if kind is None:
        raise OSError("it has no config.json that names a model_type")
    if kind not in MODELS:
        raise UserError(f"{name} is a model of the type {kind}, not sam or sam2: give one of {', '.join(RELEASED)}")
    model, loading = getattr(transformers, MODELS[kind]).from_pretrained(
        name, local_files_only=local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    if loading["missing_keys"]:
        raise UserError(
            f"{name} lacks trained weights for {', '.join(sorted(loading['missing_keys'])[:3])}: masks of random "
            "weights are no result; copy or download it again"
        )
    processor = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local)
    return TransformersSam(model, processor, f"{'SAM' if kind == 'sam' else 'SAM 2'} ({Path(name).name})", device)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
