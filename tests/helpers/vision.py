"""Builds tiny vision-language models with their processors, and questions about images.

There is one model for each way in which TRL lays out the pixels of a batch. Image processors are those that work on
Pillow images, so nothing needs torchvision. Nothing is downloaded.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<turn>")
_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+=,.<>_-#"


def _tokenizer(*image_tokens: str, placeholder: str, **roles: str) -> Qwen2Tokenizer:
    """Return a tokenizer of single characters, with a chat template that writes `placeholder` for an image.

    `roles` names the tokens that a processor asks for by name, such as `image_token`.
    """
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate([*_SPECIAL, *_CHARACTERS])},
        merges=[],
        unk_token="<pad>",
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=roles,
        chat_template=(
            "{% for message in messages %}<turn>{% if message.content is string %}{{ message.content }}{% else %}"
            "{% for part in message.content %}{% if part.type == 'image' %}" + placeholder + "{% else %}"
            "{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<turn>{% endif %}"
        ),
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", *image_tokens]})
    return tokenizer


class _ImageProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without videos, whose processor needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def _grid() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Qwen2-VL: one row of pixels per patch, and `image_grid_thw`."""
    tokenizer = _tokenizer(
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
    )
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    processor = _ImageProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad")}
    config = Qwen2VLConfig(
        text_config=_TEXT
        | {"vocab_size": len(tokenizer), "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "hidden_size": 32,
            "patch_size": 4,
        },
        image_token_id=ids["image_pad"],
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    return Qwen2VLForConditionalGeneration(config), processor


def _tiles() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Idefics3: for every row of the batch equally many tiles, padded with zeros, and `pixel_attention_mask`."""
    tags = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tags, placeholder="<image>"
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)
    config = Idefics3Config(
        text_config=_TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0},
        vision_config=_VISION,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _per_image() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Gemma 3: one row of pixels per image, and `token_type_ids`."""
    roles = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    tokenizer = _tokenizer(*roles.values(), placeholder="<start_of_image>", **roles)
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = Gemma3Processor(images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4)
    config = Gemma3Config(
        text_config=_TEXT
        | {
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "sliding_window": 512,
            "query_pre_attn_scalar": 16,
            "initializer_range": 0.05,
        },
        vision_config=_VISION,
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    return Gemma3ForConditionalGeneration(config), processor


LAYOUTS: dict[str, Callable[[], tuple[PreTrainedModel, ProcessorMixin]]] = {
    "grid": _grid,
    "tiles": _tiles,
    "per image": _per_image,
}


def save_vision_model(layout: str, directory: Path) -> ProcessorMixin:
    """Save a model with random weights, the same in every call, and its processor; return the processor.

    In a launch, every process calls this function, and the first one saves.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = LAYOUTS[layout]()
    state = PartialState(cpu=True)
    if state.is_main_process:
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
    state.wait_for_everyone()
    return processor


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Return an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


SIZES = [(8, 16), (16, 16), (24, 8), (16, 32), (32, 32)]


def image_questions(number: int = 24, *, counts: tuple[int, ...] = (1, 2, 1, 3)) -> Dataset:
    """Return questions of different lengths about images of different sizes; `counts` is their number, in turn."""
    rows = []
    for i in range(number):
        content = f"a={'+'.join(str((i * j) % 10) for j in range(1, 3 + i % 4))},b={i % 10}"
        images = [picture(*SIZES[(i + j) % len(SIZES)], seed=10 * i + j) for j in range(counts[i % len(counts)])]
        rows.append({"prompt": [{"role": "user", "content": content}], "images": images, "answer": "0"})
    return Dataset.from_list(rows)
