"""Builds tiny models with random weights, TRL's chat templates, and vocabularies learned from these templates.

TRL's tests write some completions as token ids. The models for these tests have the tokens of these ids at the same
place as the original, and made-up tokens at all others, so that a sampled completion always has a text. All other
models have about 900 tokens.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import transformers as hf
import trl
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

Built = tuple[hf.PreTrainedModel, Any]
"""A model, and its tokenizer or processor."""
Words = dict[int, str]
"""Texts of tokens by id."""

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
TEXT = SIZES | {"hidden_size": 8, "num_key_value_heads": 2}
VISION = SIZES | {"hidden_size": 16, "patch_size": 14}
END, TURN, END_OF_TURN = CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOOLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")

# The tokens of several bytes that TRL's tests write as ids: of Qwen 2 and 3, and of Qwen 3.5.
QWEN: Words = {
    **{293: " b", 314: " {", 330: ' "', 397: ">\n", 411: "out", 450: "de", 497: '",', 522: "</", 606: "name"},
    **{788: '":', 894: " any", 927: "sh", 944: "'t", 1318: "text", 1414: " know", 1513: " don", 2765: " won"},
    **{4913: '{"', 5212: ' {"', 5392: " tool", 6023: "hi", 6659: "call", 7692: "async", 9520: "step"},
    **{11248: "}}\n", 13477: "crement", 14172: "tool", 16252: " increment", 16370: "arguments", 17453: "Done"},
    **{22785: "_tool", 35744: "increment", 64648: "multiply", 93054: "_multiply", 95642: '"}}\n'},
    **dict(zip((151643, 151644, 151645, 151657, 151658), CHAT + TOOLS, strict=False)),
}
QWEN_3_5: Words = {
    **{510: "</", 866: " any", 914: "'t", 1366: " know", 1459: " don", 1628: "function", 5224: " tool"},
    **{13744: "=screen", 16936: "Done", 22076: "_tool", 30091: "shot"},
    **dict(zip((248044, 248045, 248046, 248058, 248059), CHAT + TOOLS, strict=False)),
}


@cache
def byte_pairs(size: int = 900) -> tuple[list[str], list[tuple[str, str]]]:
    """Learn a byte-level encoding from chat templates; return its tokens, the 256 bytes first, and its merges."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = list(bytes_to_unicode().values())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([path.read_text() for path in sorted(TEMPLATES.glob("qwen*.jinja"))], trainer)
    learned = json.loads(learner.to_str())["model"]
    rest = sorted(set(learned["vocab"]) - set(alphabet), key=learned["vocab"].__getitem__)
    return alphabet + rest, [(left, right) for left, right in learned["merges"]]


def make_tokenizer(template: str | None, special: tuple[str, ...], words: Words, **roles: Any) -> hf.Qwen2Tokenizer:
    """Return a tokenizer with special tokens, with the `words` at their ids, and with a token at every other id.

    Args:
        template: name of a chat template of TRL.
        special: tokens that are not split, in addition to those of Qwen.
        words: tokens that have a certain id.
        roles: other arguments of the tokenizer, such as tokens that a processor asks for by their role.
    """
    letters, (tokens, merges) = bytes_to_unicode(), byte_pairs()
    special = tuple(dict.fromkeys(CHAT + special + TOOLS))
    ids = {text if text in special else "".join(letters[b] for b in text.encode()): i for i, text in words.items()}
    vocabulary = {token: i for i, token in enumerate(tokens[:256])} | ids
    taken = set(vocabulary.values())
    rest = [token for token in [*tokens[256:], *special] if token not in vocabulary]
    free = [i for i in range(max(taken) + len(rest) + 1) if i not in taken]
    vocabulary |= dict(zip(rest, free, strict=False))
    size = max(vocabulary.values())
    vocabulary |= {f"{letters[ord(' ')]}#{i}": i for i in free[len(rest) :] if i < size}
    tokenizer = hf.Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, unk_token=END, pad_token=END, eos_token=END_OF_TURN, **roles
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in special if token not in TOOLS]})
    tokenizer.add_tokens(list(TOOLS))
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text() if template else None
    return tokenizer


def text_model(
    name: str, template: str | None = None, special: tuple[str, ...] = (), words: Words | None = None, **config: Any
) -> Built:
    """Return a model of the class `name`, a causal one or one with a score; `config` is added to its sizes."""
    family = name.removesuffix("ForCausalLM").removesuffix("ForSequenceClassification")
    tokenizer = make_tokenizer(template, special, words or {}, bos_token=special[0] if special else None)
    labels = {} if name.endswith("CausalLM") else {"num_labels": 1}
    config = TEXT | {"vocab_size": len(tokenizer)} | labels | config
    return getattr(hf, name)(getattr(hf, f"{family}Config")(**config)), tokenizer


def vision_model(
    family: str, processor: Any, text: dict[str, Any], vision: dict[str, Any] = VISION, **config: Any
) -> Built:
    """Return a model of images; `text` and `vision` are added to the sizes of its parts."""
    text = TEXT | {"vocab_size": len(processor.tokenizer)} | text
    configuration = getattr(hf, f"{family}Config")(text_config=text, vision_config=vision, **config)
    return getattr(hf, f"{family}ForConditionalGeneration")(configuration), processor


def qwen_vl(
    family: str, template: str, text: dict[str, Any], vision: dict[str, Any], words: Words | None = None
) -> Built:
    """Return a model of Qwen's VL families: one row of pixels per patch of an image."""
    tokens = {name: f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")}
    tokenizer = make_tokenizer(template, tuple(tokens.values()), words or {})
    newer = family.startswith("Qwen3")
    kind = "Qwen3VL" if newer else family
    processor = getattr(hf, f"{kind}Processor")(
        hf.Qwen2VLImageProcessor(patch_size=16 if newer else 14, size={"shortest_edge": 1024, "longest_edge": 4096}),
        tokenizer,
        (hf.Qwen3VLVideoProcessor if newer else hf.Qwen2VLVideoProcessor)(),
        chat_template=tokenizer.chat_template,
    )
    ids = {f"{name.removesuffix('_pad')}_token_id": tokenizer.convert_tokens_to_ids(t) for name, t in tokens.items()}
    return vision_model(family, processor, text, vision, **ids)


def gemma_3() -> Built:
    """Return a Gemma 3 model: one row of pixels per image, and `token_type_ids`."""
    roles = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    tokenizer = make_tokenizer("gemma3", tuple(roles.values()), {}, bos_token=END, extra_special_tokens=roles)
    images = hf.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    processor = hf.Gemma3Processor(images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4)
    ids = {f"{role}_index": tokenizer.convert_tokens_to_ids(token) for role, token in roles.items()}
    return vision_model("Gemma3", processor, {"head_dim": 8}, VISION | {"image_size": 28}, mm_tokens_per_image=4, **ids)


def gemma_4() -> Built:
    """Return a Gemma 4 model: images keep their aspect ratio, and have up to 70 tokens."""
    roles = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>"}
    roles |= {"boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>", "video_token": "<|video|>"}
    special = (*roles.values(), "<|turn>", "<turn|>", "<|channel>", "<channel|>")
    tokenizer = make_tokenizer("gemma4", special, {}, bos_token=END, extra_special_tokens=roles)
    processor = hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(),
        hf.Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer,
        hf.Gemma4VideoProcessor(),
        chat_template=tokenizer.chat_template,
        image_seq_length=70,
    )
    layers = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 8, "global_head_dim": 8}
    per_layer = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tokenizer)}
    vision = VISION | {"head_dim": 4, "num_key_value_heads": 4, "position_embedding_size": 630, "patch_size": 16}
    ids = {f"{role}_id": tokenizer.convert_tokens_to_ids(token) for role, token in roles.items()}
    return vision_model("Gemma4", processor, layers | per_layer, vision, **ids)


def llava_next() -> Built:
    """Return a LLaVA-NeXT model: tiles of an image, and `image_sizes`."""
    tokenizer = make_tokenizer("llava_next", ("<image>",), {}, bos_token=END)
    grid = [[28, 28], [28, 56], [56, 28]]
    edges = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    images = hf.LlavaNextImageProcessor(**edges, image_grid_pinpoints=grid)
    processor = hf.LlavaNextProcessor(
        images, tokenizer, 14, "default", tokenizer.chat_template, num_additional_image_tokens=1
    )
    vision = VISION | {"model_type": "clip_vision_model", "image_size": 28}
    ids = {"image_grid_pinpoints": grid, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    return vision_model("LlavaNext", processor, {"model_type": "mistral"}, vision, **ids)
