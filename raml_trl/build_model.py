"""Build a small Qwen2 with random weights and its tokenizer, and save both like any model.

    python -m raml_trl.build_model --config recipes/tiny/demo/model.yaml

Every other command then treats the directory as it treats `Qwen/Qwen2.5-7B`.
"""

import time
from collections.abc import Iterable

import torch
from tokenizers import AddedToken
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from raml_trl.data import arithmetic
from raml_trl.data.reading import load_texts
from raml_trl.model_arguments import BuildModelConfig
from raml_trl.runtime.cli import run
from raml_trl.runtime.runs import Run
from raml_trl.sampling.loading import keep_rope_theta

_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(config: BuildModelConfig, record: Run) -> None:
    """Write the model and its tokenizer to `config.output_dir`."""
    started = time.monotonic()
    if config.tokenizer_data is None:
        tokenizer = arithmetic_tokenizer()
    else:
        tokenizer = train_bpe(tqdm(load_texts(config.tokenizer_data), desc="training the tokenizer"), config.vocab_size)
    model = build_model(config, tokenizer)
    tokenizer.save_pretrained(config.output_dir)
    keep_rope_theta(model.config)
    model.save_pretrained(config.output_dir)
    record.finish(time.monotonic() - started, {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)})


def arithmetic_tokenizer() -> Qwen2Tokenizer:
    """One token for every word of the embedded world; decoding gives back the text as it was.

    It has to be Qwen's own class: transformers loads any other as that class, for a model of type `qwen2`. Characters
    are a BPE without merges, longer words are added tokens.
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
    """A byte-level BPE of `vocab_size` words trained on `texts`, with Qwen's chat markup."""
    pad, start, eos = _CHATML_TOKENS
    untrained = Qwen2Tokenizer(unk_token=pad, pad_token=pad, eos_token=pad)
    trained = untrained.train_new_from_iterator(texts, vocab_size, new_special_tokens=[start, eos], show_progress=False)
    trained.eos_token = eos
    trained.chat_template = _CHATML_TEMPLATE
    return trained


def build_model(config: BuildModelConfig, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 of the sizes in `config`, its weights drawn from `config.seed`."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                max_position_embeddings=config.max_position_embeddings,
                initializer_range=config.initializer_range,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
                **{size: getattr(config, size) for size in sizes},
            )
        )


if __name__ == "__main__":
    run(main, BuildModelConfig)
