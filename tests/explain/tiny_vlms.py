"""Tiny vision-language models with random weights, in folders as transformers writes them: for the plumbing alone."""

from pathlib import Path
from typing import Any

import torch

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer {% endif %}"
)
MARKS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
WORDS = (*MARKS, "a", "boot", "bag", "brown", "is", "on", "the", "grass", "describe", "answer", ".")


def save_llava(folder: Path) -> Path:
    """CLIP and Llama, 16x16 pixels in patches of 8."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=_llama(LlamaConfig), image_token_index=WORDS.index("<image>")
    )
    size = {"height": 16, "width": 16}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size), _tokenizer(), patch_size=8, chat_template=TEMPLATE,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return _save(LlavaForConditionalGeneration, config, processor, folder)


def save_idefics3(folder: Path) -> Path:
    """SigLIP and Llama as in SmolVLM, 16x16 pixels in patches of 8, one patch of four left."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaConfig,
    )

    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    config = Idefics3Config(
        image_token_id=WORDS.index("<image>"), vision_config=vision, text_config=_llama(LlamaConfig).to_dict(),
        scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    images = Idefics3ImageProcessor(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    processor = Idefics3Processor(images, _tokenizer(), image_seq_len=1, chat_template=TEMPLATE)
    return _save(Idefics3ForConditionalGeneration, config, processor, folder)


def _llama(kind: Any) -> Any:
    return kind(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        padding_side="left",
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS[4:])})
    return tokenizer


def _save(kind: Any, config: Any, processor: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = kind(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
