"""Builds a small Qwen2 model with random weights and its tokenizer, and saves both in `output_dir`.

    raml-trl build_model recipes/tiny/demo/model.yaml

Other commands accept this directory wherever they take the name of a model, such as `Qwen/Qwen2.5-7B`.
"""

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from tokenizers import AddedToken
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from raml_trl.data import arithmetic
from raml_trl.data.reading import load_texts
from raml_trl.runtime.cli import run
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.limits import PATH, SEED, Limits, above, check_settings, whole
from raml_trl.runtime.runs import Run
from raml_trl.sampling.loading import keep_rope_theta

logger = logging.getLogger(__name__)

_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class BuildModelConfig:
    """Settings of `build_model`: the tokenizer and the sizes of the Qwen2 model."""

    limits: ClassVar[Limits] = {
        "output_dir": PATH,
        "tokenizer_data": PATH,
        "vocab_size": whole(1, 10**6),
        "hidden_size": whole(1, 2**16),
        "num_hidden_layers": whole(1, 1000),
        "num_attention_heads": whole(1, 2**12),
        "num_key_value_heads": whole(1, 2**12),
        "intermediate_size": whole(1, 2**18),
        "max_position_embeddings": whole(1, 10**8),
        "initializer_range": above(0, 1000),
        "seed": SEED,
    }

    output_dir: str
    tokenizer: Literal["arithmetic", "bpe"] = field(
        default="arithmetic",
        metadata={
            "help": "`arithmetic` is the vocabulary of the built-in questions; `bpe` is a byte-level BPE "
            "trained on `tokenizer_data`."
        },
    )
    tokenizer_data: str | None = field(default=None, metadata={"help": "The dataset on which the BPE is trained."})
    vocab_size: int = field(default=2048, metadata={"help": "Number of tokens in the BPE."})
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = field(default=2, metadata={"help": "vLLM needs hidden_size / heads of 32 or more."})
    num_key_value_heads: int = 2
    intermediate_size: int = 192
    max_position_embeddings: int = 512
    initializer_range: float = field(
        default=0.05,
        metadata={"help": "Standard deviation of the initial weights; small models learn faster with a larger one."},
    )
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.tokenizer == "bpe") != (self.tokenizer_data is not None):
            raise InputError(
                f"tokenizer is {self.tokenizer!r} and tokenizer_data is {self.tokenizer_data!r}: "
                "a bpe tokenizer needs training data, and an arithmetic one takes none"
            )
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size}) and "
                f"be a multiple of num_key_value_heads ({self.num_key_value_heads})"
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if 4 * self.parameters > memory:
            raise InputError(
                f"the model would have about {self.parameters:,} parameters, and this machine has memory for "
                f"{memory // 4:,}: reduce hidden_size, num_hidden_layers, intermediate_size or vocab_size"
            )

    @property
    def parameters(self) -> int:
        """The number of parameters, without biases and norms."""
        width, shared = self.hidden_size, self.num_key_value_heads / self.num_attention_heads
        layer = 2 * width * width * (1 + shared) + 3 * width * self.intermediate_size
        return self.vocab_size * width + int(self.num_hidden_layers * layer)


def main(config: BuildModelConfig, record: Run) -> None:
    """Build the model and its tokenizer, and write both to `config.output_dir`."""
    started = time.monotonic()
    if config.tokenizer_data is None:
        tokenizer = arithmetic_tokenizer()
    else:
        tokenizer = train_bpe(tqdm(load_texts(config.tokenizer_data), desc="training the tokenizer"), config.vocab_size)
    model = build_model(config, tokenizer)
    tokenizer.save_pretrained(config.output_dir)
    keep_rope_theta(model.config)
    model.save_pretrained(config.output_dir)
    parameters = model.num_parameters()
    logger.info("a model of %s parameters, with a vocabulary of %s tokens", f"{parameters:,}", f"{len(tokenizer):,}")
    record.finish(time.monotonic() - started, {"parameters": parameters, "vocabulary": len(tokenizer)})


def arithmetic_tokenizer() -> Qwen2Tokenizer:
    """Return a tokenizer with one token for each entry of the vocabulary of the built-in arithmetic questions.

    Decoding restores the exact text. The tokenizer is an instance of Qwen's own class, because transformers loads the
    tokenizer of any `qwen2` model as that class. Single characters form a BPE (byte-pair encoding) without merges;
    longer words are added tokens.
    """
    pad, eos, *_ = arithmetic.SPECIAL_TOKENS
    vocabulary = {token: index for index, token in enumerate(arithmetic.VOCABULARY)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token=pad,
        pad_token=pad,
        eos_token=eos,
        additional_special_tokens=list(arithmetic.SPECIAL_TOKENS),
        chat_template=arithmetic.CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    words = [token for token in arithmetic.VOCABULARY if len(token) > 1 and token not in arithmetic.SPECIAL_TOKENS]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer of `vocab_size` tokens on `texts`, and return it with Qwen's chat template."""
    pad, start, eos = _CHATML_TOKENS
    untrained = Qwen2Tokenizer(unk_token=pad, pad_token=pad, eos_token=pad)
    trained = untrained.train_new_from_iterator(texts, vocab_size, new_special_tokens=[start, eos], show_progress=False)
    trained.eos_token = eos
    trained.chat_template = _CHATML_TEMPLATE
    return trained


def build_model(config: BuildModelConfig, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Build a Qwen2 model for `tokenizer`, with the sizes in `config` and weights drawn with `config.seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                intermediate_size=config.intermediate_size,
                max_position_embeddings=config.max_position_embeddings,
                initializer_range=config.initializer_range,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        )


if __name__ == "__main__":
    run(main, BuildModelConfig)
