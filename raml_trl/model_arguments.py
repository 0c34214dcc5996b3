"""The dataclass of `build_model`. Unusable values are refused here, before any work."""

from dataclasses import dataclass, field
from typing import Literal

from raml_trl.runtime.errors import InputError
from raml_trl.runtime.validation import check_types


@dataclass
class BuildModelConfig:
    """`build_model`: a small Qwen2 with random weights, and its tokenizer."""

    output_dir: str
    tokenizer: Literal["arithmetic", "bpe"] = field(
        default="arithmetic",
        metadata={"help": "The embedded world's words, or a byte-level BPE trained on `tokenizer_data`."},
    )
    tokenizer_data: str | None = field(default=None, metadata={"help": "A data set to train the BPE on."})
    vocab_size: int = field(default=2048, metadata={"help": "Of the BPE."})
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = field(default=2, metadata={"help": "vLLM wants hidden_size / heads of 32 or more."})
    num_key_value_heads: int = 2
    intermediate_size: int = 192
    max_position_embeddings: int = 512
    initializer_range: float = field(default=0.05, metadata={"help": "Small models learn sooner from a wide start."})
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self, BuildModelConfig)
        if (self.tokenizer == "bpe") != (self.tokenizer_data is not None):
            raise InputError(
                f"tokenizer is {self.tokenizer!r} and tokenizer_data is {self.tokenizer_data!r}: "
                "a bpe tokenizer needs data to be trained on, and no other takes any"
            )
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size}) and "
                f"be a multiple of num_key_value_heads ({self.num_key_value_heads})"
            )
