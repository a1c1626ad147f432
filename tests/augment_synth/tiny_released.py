"""The released models' classes in small, with random weights, in folders as transformers and diffusers write them."""

from pathlib import Path
from typing import Any

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "red", "ball", "on", "grass", ".")
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
SIDE = 16
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": 8,
}  # fmt: skip
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SQUARE = {"height": SIDE, "width": SIDE}


def save(model: Any, processor: Any, folder: Path) -> Path:
    """Both, in safetensors."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def made(kind: Any, config: Any) -> Any:
    """A model of a config, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return kind(config).eval()


def bert_words() -> Any:
    """A tokenizer of a few words."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=32)


# ---- captioners ------------------------------------------------------------------------------------------------------


def save_blip(folder: Path) -> Path:
    """BLIP."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    text = {
        **TEXT, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64, "bos_token_id": 2,
        "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "projection_dim": 16,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config={**VISION, "projection_dim": 16}, projection_dim=16)
    processor = BlipProcessor(BlipImageProcessor(size=SQUARE), bert_words())
    return save(made(BlipForConditionalGeneration, config), processor, folder)


def save_git(folder: Path) -> Path:
    """GIT."""
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    config = GitConfig(
        vision_config=VISION, vocab_size=len(WORDS), max_position_embeddings=64, bos_token_id=2, eos_token_id=3,
        pad_token_id=0, **TEXT,
    )  # fmt: skip
    processor = GitProcessor(CLIPImageProcessor(size=SQUARE, crop_size=SQUARE), bert_words())
    return save(made(GitForCausalLM, config), processor, folder)


# ---- a language model that says one thing ----------------------------------------------------------------------------


def save_language_model(folder: Path, answer: str, chat: bool = True) -> Path:
    """Llama whose every answer is `answer`: its layers add nothing, and its output layer knows two tokens.

    All words have an embedding of ones, for which the answer scores highest; the answer's own is of minus ones, for
    which the end does.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, answer: 4}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template=TEMPLATE if chat else None,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **TEXT,
    )  # fmt: skip
    model = made(LlamaForCausalLM, config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1)
        model.model.embed_tokens.weight[words[answer]] = -1
        model.lm_head.weight.zero_()
        model.lm_head.weight[words[answer]] = 1
        model.lm_head.weight[words["</s>"]] = -1
    return save(model, tokenizer, folder)


# ---- detectors -------------------------------------------------------------------------------------------------------


def save_grounding_dino(folder: Path) -> Path:
    """Grounding DINO with a Swin of two stages."""
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    backbone = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4,
        out_features=["stage1", "stage2"],
    )  # fmt: skip
    text = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **TEXT)
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=16, decoder_attention_heads=2, num_queries=6,
        num_feature_levels=2, encoder_n_points=2, decoder_n_points=2, max_text_len=32,
    )  # fmt: skip
    images = GroundingDinoImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    return save(made(GroundingDinoForObjectDetection, config), GroundingDinoProcessor(images, bert_words()), folder)


def save_owl(folder: Path) -> Path:
    """OWLv2 with four places."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    text = {
        **TEXT, "vocab_size": 10, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0
    }  # fmt: skip
    config = Owlv2Config(text_config=text, vision_config=VISION, projection_dim=16)
    processor = Owlv2Processor(Owlv2ImageProcessor(size=SQUARE), clip_words(16))
    return save(made(Owlv2ForObjectDetection, config), processor, folder)


def save_sam(folder: Path) -> Path:
    """SAM."""
    from transformers import SamConfig, SamImageProcessor, SamModel

    vision = {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 16, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 16, "num_pos_feats": 8,
    }  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 32, "patch_size": 16, "mask_input_channels": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    processor = SamImageProcessor(size={"longest_edge": 32}, pad_size={"height": 32, "width": 32})
    return save(made(SamModel, config), processor, folder)


def clip_words(length: int) -> Any:
    """CLIP's tokenizer of letters and a few words; OWL takes a text that begins with 0 for padding."""
    from transformers import CLIPTokenizer

    words = ["!", "<|startoftext|>", "<|endoftext|>", "a</w>", "dog</w>", "d", "o", "g</w>", "do", "b</w>"]
    merges = [("d", "o"), ("do", "g</w>")]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=merges, model_max_length=length, pad_token="!"
    )


def save_clip(folder: Path) -> Path:
    """CLIP."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    text = {
        **TEXT, "vocab_size": 10, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    processor = CLIPProcessor(CLIPImageProcessor(size=SQUARE, crop_size=SQUARE), clip_words(64))
    return save(made(CLIPModel, config), processor, folder)


# ---- Stable Diffusion ------------------------------------------------------------------------------------------------


def save_stable_diffusion(folder: Path, kind: str = "", in_channels: int = 4) -> Path:
    """Stable Diffusion of 16 x 16 pixels; `kind` is Inpaint (9 channels) or InstructPix2Pix (8), or nothing."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    text = CLIPTextConfig(
        vocab_size=10, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0, **TEXT
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        pipe = getattr(diffusers, f"StableDiffusion{kind}Pipeline")(
            vae=diffusers.AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, **blocks
            ),
            text_encoder=CLIPTextModel(text), tokenizer=clip_words(16),
            unet=diffusers.UNet2DConditionModel(
                sample_size=SIDE // 2, in_channels=in_channels, out_channels=4, cross_attention_dim=16,
                layers_per_block=1, attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
                up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"], **blocks,
            ),
            scheduler=diffusers.DDIMScheduler(num_train_timesteps=8), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder
