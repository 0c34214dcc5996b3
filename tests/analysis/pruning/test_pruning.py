"""Every pruning method keeps the same text as a plain loop, and the model reads the kept text before it answers."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raml_trl.analysis.likelihood import answer_nll
from raml_trl.analysis.pruning.answers import MethodOutcome, OpenBox, _continue, force_answers
from raml_trl.analysis.pruning.config import Method, parse_method
from raml_trl.analysis.pruning.frontier import compare_methods, frontier_figure, on_frontier
from raml_trl.analysis.pruning.prune import Tools, check_summaries, leaks, losses, losses_along, prune, settled
from raml_trl.analysis.pruning.thinking import Thinking, find_thinking
from raml_trl.analysis.text import split_sentences
from raml_trl.analysis.trajectories import tokenise
from raml_trl.build_model import train_bpe
from raml_trl.data.records import Question, Trajectory
from raml_trl.evaluation.intervals import MeanInterval
from raml_trl.grading.boxes import box_end, opens_box
from raml_trl.prompts import STYLES, SUMMARY, find_style
from raml_trl.runtime.errors import InputError
from raml_trl.sampling.engine import Completion, Messages, SamplingSettings

BARE = find_style("bare").stub
STEPS = "b5+6=1;a7+2=9;b1+6=7;a9+7=6;"
PASS = 4096


@pytest.fixture(scope="module")
def model(model_dir: str) -> Any:
    """A model with random weights that are large enough for the answer's loss to depend on the prefix."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="float32").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight *= 4 if "embed" in name or "head" in name else 8
    return model


@pytest.fixture(scope="module")
def tokenizer(model_dir: str) -> Any:
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer that can encode any text, unlike that of the embedded world."""
    return train_bpe([SUMMARY, *(style.instruction for style in STYLES.values()), "We add 1 and 2. So 3."], 400)


@pytest.fixture
def tools(model: Any, tokenizer: Any) -> Tools:
    return Tools(model, tokenizer, PASS)


def thinking_of(tokenizer: Any, text: str, *, answer: str = "67", style: str = "bare", number: int = 0) -> Thinking:
    question = Question("q", "a=7+7+2,b=6+5+6", answer, "test")
    tokens = tokenise(tokenizer, question, number, Trajectory(text, True, "m"), style)
    return find_thinking(tokenizer, tokens, find_style(style).stub)


def random_thinkings(tokenizer: Any, rng: np.random.Generator, count: int) -> list[Thinking]:
    """Make the thinkings of trajectories that have one to five steps with random digits."""
    thinkings = []
    for number in range(count):
        steps = [
            f"{rng.choice(['a', 'b'])}{rng.integers(10)}+{rng.integers(10)}={rng.integers(10)};"
            for _ in range(rng.integers(1, 6))
        ]
        text = f"<think>{''.join(steps)}</think>\\boxed{{67}}"
        thinkings.append(thinking_of(tokenizer, text, answer=f"{rng.integers(10, 100)}", number=number))
    return thinkings


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (STEPS, ["b5+6=1;", "a7+2=9;", "b1+6=7;", "a9+7=6;"]),
        ("a1+1=2;b3", ["a1+1=2;", "b3"]),
        ("So x = 3.5. Then? Yes!  Done", ["So x = 3.5. ", "Then? ", "Yes!  ", "Done"]),
        ("One\n\nTwo\nThree", ["One\n\n", "Two\n", "Three"]),
        ("1. First.\n2) Second.\n- Third.", ["1. First.\n", "2) Second.\n", "- Third."]),
        (r"$f\;g$ is $h.$ Next", [r"$f\;g$ is $h.$ ", "Next"]),
        ("\n\n", ["\n\n"]),
        ("\n\nOne. ", ["\n\nOne. "]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_sentences_join_to_the_text(rng: np.random.Generator) -> None:
    for _ in range(500):
        text = "".join(rng.choice(list("ab1.;!?\\\n )-"), size=rng.integers(30)))
        sentences = split_sentences(text)
        assert "".join(sentences) == text
        assert all(sentences)


def test_method_names_are_parsed() -> None:
    assert parse_method("none") == Method("none")
    assert parse_method("no_thinking:phrase").name == "no_thinking:phrase"
    assert [parse_method(f"budget:{budget}").budget(7) for budget in ("0", "3", "9", "0.5", "1.0", "0.0")] == [
        *(0, 3, 7, 3, 7, 0)
    ]
    assert parse_method("budget:0.29").budget(100) == 29  # floating-point arithmetic would give 28
    assert parse_method("curve:0.1").number == 0.1


@pytest.mark.parametrize(
    "name",
    [
        *("", "all", "none:1", "summary:2", "no_thinking:no"),
        *("budget", "budget:", "budget:-1", "budget:1.5", "budget:x", "budget:.", "budget:1.2.3"),
        *("curve", "curve:inf", "curve:-0.1", "drop_sentence", "drop_sentence:1e3", "drop_sentence:a"),
    ],
)
def test_unknown_methods_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match="methods: '"):
        parse_method(name)


CLOSING = {
    "bare": BARE,
    "boxed": "\n\nThe answer is \\boxed{",
    "block": "\n</think>\n\nThe answer is \\boxed{",
    "conclusion": "\n</think>\n<conclusion>\nThe answer is \\boxed{",
}


@pytest.mark.parametrize(
    ("closing", "text", "opening", "thinking"),
    [
        ("bare", f"<think>{STEPS}</think>\\boxed{{67}}", "<think>", STEPS),
        ("bare", "<think></think>\\boxed{67}", "<think>", ""),
        ("bare", f"<think>{STEPS}", "<think>", STEPS),  # truncated
        ("bare", "<think>b5+<think>a2;</think>\\boxed{82}", "<think>", "b5+<think>a2;"),
        ("bare", "</think>\\boxed{82}", "", ""),
        ("block", "<think>\n1. Or 2.\n</think>\n\nSo \\boxed{3}", "<think>\n", "1. Or 2."),
        ("block", "<think>\n1. Or", "<think>\n", "1. Or"),
        ("block", "<think>\nOr \\boxed{3}? We", "<think>\n", "Or \\boxed{3}? We"),
        ("block", "</think> So. <think>\nOr 2.", "</think> So. <think>\n", "Or 2."),
        ("boxed", "We add 1. The answer is \\boxed{3}", "", "We add 1."),
        ("boxed", "So \\boxed{1}. We add 1. The answer is \\boxed{3}", "", "So \\boxed{1}. We add 1."),
        ("boxed", "\\boxed{3}", "", ""),
        ("boxed", "We add 1.", "", "We add 1."),
        ("conclusion", "<think>\n\n</think>\n<conclusion>\nThe answer is \\boxed{3}", "<think>\n\n", ""),
        ("conclusion", "<think>\nWe add 1 and 2.", "<think>\n", "We add 1 and 2."),
    ],
)
def test_find_thinking(tokenizer: Any, words: Any, closing: str, text: str, opening: str, thinking: str) -> None:
    reader = tokenizer if closing == "bare" else words
    style, stub = "boxed" if closing == "block" else closing, CLOSING[closing]
    located = thinking_of(reader, text, style=style, answer="3")
    assert located.text.strip() == thinking
    assert located.tokens.text[: (0, *located.tokens.ends)[located.start]] == opening
    assert located.stub == stub
    assert reader.decode(located.ids).strip() == thinking
    assert reader.decode(torch.cat([located.stub_ids, located.answer_ids])) == f"{stub}3"


def test_a_thinking_block_that_the_chat_template_opens(words: Any) -> None:
    opening = copy.deepcopy(words)
    opening.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    for text in ("<think>\nWe add 1.\n</think>\n\\boxed{3}", "<think>\nWe add 1."):
        located = thinking_of(opening, text, style="boxed", answer="3")
        assert (located.text, located.start) == ("We add 1.", 0)
        assert located.stub == "\n</think>\n\nThe answer is \\boxed{"
        assert located.lay_out("We.", "3", "boxed") == "<think>\nWe.\n</think>\n\nThe answer is \\boxed{3}"
        [left] = prune(parse_method("no_thinking:empty"), [located], Tools(None, opening, PASS))
        assert opening.decode(left.asked_ids).endswith("\n<think>\n\n</think>\n\nThe answer is \\boxed{")


def test_trajectories_keep_their_layout(tokenizer: Any, words: Any) -> None:
    assert thinking_of(tokenizer, f"<think>{STEPS}").lay_out("a1;", "7", "bare") == "<think>a1;</think>\\boxed{7}"
    plain = thinking_of(words, "We add 1. The answer is \\boxed{3}", style="boxed", answer="3")
    assert plain.lay_out("We.", "3", "boxed") == "We.\n\nThe answer is \\boxed{3}"


def kept(tokenizer: Any, thinking: Thinking, method: str, tools: Tools) -> tuple[str, str]:
    """Return the shortened thinking, and the text that the model reads after the prompt."""
    [left] = prune(parse_method(method), [thinking], tools)
    read = torch.cat([left.prompt_ids, left.ids, left.stub_ids])
    assert torch.equal(read, left.asked_ids)
    prompt = thinking.tokens.prompt_ids
    assert torch.equal(read[: len(prompt)], prompt)
    return left.text, tokenizer.decode(read[len(prompt) :])


def test_budgets_and_the_complete_thinking(tokenizer: Any, tools: Tools) -> None:
    thinking = thinking_of(tokenizer, f"<think>{STEPS}</think>\\boxed{{67}}")
    for method, length in (("none", 28), ("budget:0.25", 7), ("budget:10", 10), ("budget:99", 28), ("budget:0", 0)):
        text, read = kept(tokenizer, thinking, method, tools)
        assert text == STEPS[:length]
        assert read == f"<think>{STEPS[:length]}</think>\\boxed{{"


def test_no_thinking(tokenizer: Any, words: Any, tools: Tools) -> None:
    thinking = thinking_of(tokenizer, f"<think>{STEPS}</think>\\boxed{{67}}")
    for method in ("no_thinking", "no_thinking:closed"):
        assert kept(tokenizer, thinking, method, tools) == ("", "<think></think>\\boxed{")
    long = thinking_of(words, "<think>\nWe.\n</think>\n<conclusion>\nThe answer is \\boxed{3}", style="conclusion")
    others = Tools(None, words, PASS)
    conclusion = "<conclusion>\nThe answer is \\boxed{"
    assert kept(words, long, "no_thinking", others) == ("", f"<think>\n\n</think>\n{conclusion}")
    assert kept(words, long, "no_thinking:empty", others) == ("", f"<think>\n\n</think>\n\n{conclusion}")
    phrase, read = kept(words, long, "no_thinking:phrase", others)
    assert read == f"<think>\n{phrase}\n</think>\n{conclusion}"
    assert phrase.endswith("the answer is")


@pytest.mark.long
def test_curve_cuts_at_the_same_place_as_a_plain_loop(
    model: Any, tokenizer: Any, tools: Tools, rng: np.random.Generator
) -> None:
    thinkings = random_thinkings(tokenizer, rng, 6)
    along = losses_along(model, thinkings, tokens_per_pass=PASS)
    lengths = set()
    for thinking, nll in zip(thinkings, along, strict=True):
        read = [
            torch.cat([thinking.opening_ids, thinking.ids[:t], thinking.stub_ids]) for t in range(len(thinking.ids) + 1)
        ]
        plain = [answer_nll(model, prefix, thinking.answer_ids) for prefix in read]
        assert nll.tolist() == pytest.approx(plain, abs=1e-3)
        for below in np.quantile(plain, [0.3, 0.6, 0.9]) + 2e-3:
            cut = next((t for t in range(len(plain)) if all(loss < below for loss in plain[t:])), len(plain) - 1)
            assert settled(nll, below) == cut
            lengths.add(cut)
            [left] = prune(Method("curve", f"{below:.10f}"), [thinking], tools)
            assert torch.equal(left.ids, thinking.ids[:cut])
    assert len(lengths) > 4


@pytest.mark.parametrize(
    ("nll", "cut"),
    [([5, 4, 3], 2), ([0.0, 0.0], 0), ([5, 0.2, 0.5, 0.2, 0.1], 3), ([0.1, 5], 1), ([9.0], 0), ([1, 0.5, 0.5], 2)],
)
def test_settled_finds_the_last_crossing(nll: list[float], cut: int) -> None:
    assert settled(torch.tensor(nll, dtype=torch.float32), 0.5) == cut


def drop_in_a_plain_loop(model: Any, tokenizer: Any, thinking: Thinking, tolerance: float, most: int | None) -> str:
    """Do the greedy search of `drop_sentences` for a single trajectory, with one forward pass for every candidate."""

    def loss(text: str) -> float:
        middle = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
        return answer_nll(model, torch.cat([thinking.opening_ids, middle, thinking.stub_ids]), thinking.answer_ids)

    left, limit, dropped = split_sentences(thinking.text), loss(thinking.text) + tolerance, 0
    while left and dropped != most:
        without = [left[:gone] + left[gone + 1 :] for gone in range(len(left))]
        best = min(without, key=lambda sentences: loss("".join(sentences)))
        if loss("".join(best)) > limit:
            break
        left, dropped = best, dropped + 1
    return "".join(left)


@pytest.mark.long
@pytest.mark.parametrize("most", [None, 1])
def test_drop_sentences_equals_a_plain_loop(
    model: Any, tokenizer: Any, rng: np.random.Generator, most: int | None
) -> None:
    thinkings = [*random_thinkings(tokenizer, rng, 10), thinking_of(tokenizer, "<think></think>\\boxed{67}")]
    tools = Tools(model, tokenizer, PASS, max_drops=most)
    dropped = set()
    for tolerance in ("0", "0.3", "100"):
        left = prune(Method("drop_sentence", tolerance), thinkings, tools)
        for thinking, row in zip(thinkings, left, strict=True):
            assert row.text == drop_in_a_plain_loop(model, tokenizer, thinking, float(tolerance), most)
            assert tokenizer.decode(row.ids) == row.text
            sentences = iter(split_sentences(thinking.text))
            assert all(
                sentence in sentences for sentence in split_sentences(row.text)
            )  # only complete sentences are kept, in their order
            dropped.add(len(split_sentences(thinking.text)) - len(split_sentences(row.text)))
            if tolerance == "100" and most is None:
                assert row.text == ""
    assert len(dropped) == (6 if most is None else 2)


def test_losses_equal_those_of_single_texts(model: Any, tokenizer: Any, tools: Tools, rng: np.random.Generator) -> None:
    left = prune(parse_method("budget:0.5"), random_thinkings(tokenizer, rng, 8), tools)
    plain = [answer_nll(model, row.asked_ids, row.answer_ids) for row in left]
    assert losses(model, left, tokens_per_pass=100) == pytest.approx(plain, abs=1e-3)
    assert np.ptp(plain) > 0.5  # the losses differ enough for a wrong order to fail


class Summariser:
    """Stands in for an engine: returns given texts, the last one first, and records the prompts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.prompts = texts, list[Messages]()

    def sample(self, prompts: Sequence[Messages], settings: SamplingSettings, *, seed: int) -> Iterator[Completion]:
        self.prompts += prompts
        for place in reversed(range(len(prompts))):
            yield Completion(place, 0, self.texts[place], 3, True)


def test_summaries(words: Any) -> None:
    thinkings = [
        thinking_of(words, f"<think>\n{text}\n</think>\n\\boxed{{3}}", style="boxed", answer="3")
        for text in ("We add 1 and 2.", "", "So we have 1 + 2. It is 3.")
    ]
    summariser = Summariser(["<think>\nHm.\n</think>\n\nAdd them. ", "The sum is 3."])
    tools = Tools(None, words, PASS, None, summariser, SamplingSettings(1, 9, 1.0, 1.0, 0), max_summary_input=5)
    left = prune(parse_method("summary"), thinkings, tools)
    assert [row.text for row in left] == ["Add them.", "", "The sum is 3."]
    assert [leaks(row, "3") for row in left] == [False, False, True]
    assert words.decode(left[0].asked_ids).endswith("<think>\nAdd them.\n</think>\n\nThe answer is \\boxed{")
    assert len(summariser.prompts) == 2
    for [message], thinking in zip(summariser.prompts, (thinkings[0], thinkings[2]), strict=True):
        assert thinking.tokens.question.question in message["content"]
        assert f"\n{words.decode(thinking.ids[:5])}\n" in message["content"]
        assert thinking.text not in message["content"]
        assert message["content"].endswith(SUMMARY)
    prune(parse_method("summary"), thinkings, replace(tools, max_summary_input=99))
    for [message], text in zip(summariser.prompts[2:], (thinkings[0].text, thinkings[2].text), strict=True):
        assert f"\nNotes:\n{text}\n\n" in message["content"]


def test_summaries_need_words_in_the_vocabulary(tokenizer: Any, words: Any) -> None:
    check_summaries(words)
    with pytest.raises(InputError, match=r"the tokenizer of .* lacks the words"):
        check_summaries(tokenizer)


@pytest.mark.parametrize(
    ("method", "answer", "leaked"),
    [
        *(("none", "96", False), ("none", "9", True), ("none", "27", False)),
        *(("budget:6", "1", True), ("budget:5", "1", False), ("no_thinking", "1", False)),
        ("drop_sentence:100", "9", False),
    ],
)
def test_leaks(tokenizer: Any, tools: Tools, method: str, answer: str, leaked: bool) -> None:
    thinking = thinking_of(tokenizer, f"<think>{STEPS}</think>\\boxed{{67}}", answer=answer)
    [left] = prune(parse_method(method), [thinking], tools)
    assert leaks(left, answer) == leaked


def test_numbers_leak_in_any_form(words: Any) -> None:
    thinking = thinking_of(words, "<think>\nIt is 0.50, not 17.\n</think>\n\\boxed{3}", style="boxed")
    [left] = prune(parse_method("none"), [thinking], Tools(None, words, PASS))
    assert [leaks(left, answer) for answer in (r"\frac{1}{2}", "7", "17")] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("67}", 3),
        (r"\frac{1}{2}</think>", None),
        (r"\frac{1}{2}}", 12),
        (r"\frac{1}{2}}}$ and", 12),
        (r"\{1, 2\}} so", 9),
        (r"\text{a } b}", 12),
        ("67", None),
        ("}", 1),
    ],
)
def test_a_box_ends_where_its_braces_balance(text: str, end: int | None) -> None:
    assert box_end("The answer is \\boxed{", text) == end


def test_all_styles_have_a_stub_that_opens_a_box() -> None:
    assert all(opens_box(style.stub) for style in STYLES.values())
    for stub in ("The answer is ", "\\boxed{3}", "\\boxed{\\frac{"):
        assert not opens_box(stub)


class Scripted:
    """Stands in for a model: `generate` writes a text chosen by the last token of each prompt."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, texts: dict[int, str]) -> None:
        self.tokenizer, self.texts, self.written = tokenizer, texts, list[int]()
        self.shapes: list[tuple[int, ...]] = []

    def generate(
        self, input_ids: Any, attention_mask: Any, max_new_tokens: int, stopping_criteria: Any, **named: Any
    ) -> Any:
        assert named["do_sample"] is False
        self.shapes.append(tuple(input_ids.shape))
        assert (attention_mask[:, -1] == 1).all()  # padding is on the left
        scripts = [self.tokenizer(self.texts[int(ids[-1])])["input_ids"] for ids in input_ids]
        start, pad = input_ids.shape[1], self.tokenizer.pad_token_id
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        for step in range(max_new_tokens):
            tokens = [pad if done[row] or step >= len(ids) else ids[step] for row, ids in enumerate(scripts)]
            input_ids = torch.cat([input_ids, torch.tensor(tokens)[:, None]], dim=1)
            done |= stopping_criteria(input_ids, None)
            if done.all():
                break
        self.written.append(input_ids.shape[1] - start)
        return input_ids


def test_forced_answers_end_when_the_box_closes(words: Any) -> None:
    texts = {5: r"\frac{1}{2}}. So", 6: "67} and \\boxed{8}", 7: "never closed, whatever comes", 8: "}"}
    scripted = Scripted(words, texts)
    boxes = [OpenBox(torch.tensor([1] * length + [last]), "\\boxed{") for length, last in enumerate((5, 6, 7, 8, 5, 6))]
    answers = force_answers(scripted, words, boxes, max_tokens=16, batch_size=4, tokens_per_pass=100)
    assert answers == [r"\frac{1}{2}", "67", None, "", r"\frac{1}{2}", "67"]
    assert len(scripted.written) == 2
    assert max(scripted.written) <= 16
    longest = len(words(texts[5])["input_ids"])
    done = Scripted(words, texts)
    assert force_answers(done, words, boxes[:1], max_tokens=99, batch_size=4, tokens_per_pass=1) == [r"\frac{1}{2}"]
    assert done.written[0] < longest


def test_equal_texts_are_continued_once_and_long_texts_in_small_batches(words: Any) -> None:
    scripted = Scripted(words, {5: "1}", 6: "2}"})
    boxes = [OpenBox(torch.tensor([1, 1, last]), "\\boxed{") for last in (5, 6, 5, 5, 6)]
    answers = force_answers(scripted, words, boxes, max_tokens=9, batch_size=9, tokens_per_pass=3)
    assert answers == ["1", "2", "1", "1", "2"]
    assert len(scripted.written) == 2
    boxes = [OpenBox(torch.tensor([1] * length + [5]), "\\boxed{") for length in (1, 2, 3, 12, 30, 9, 4)]
    assert force_answers(scripted, words, boxes, max_tokens=9, batch_size=3, tokens_per_pass=25) == ["1"] * 7
    assert scripted.shapes[2:] == [(1, 31), (1, 13), (2, 10), (3, 4)]


def test_the_generation_config_of_the_checkpoint_changes_no_answer(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [(tuple(tokenizer(text)["input_ids"]), "\\boxed{") for text in ("a1+2=3;", "b5+6=1;a7+2=9;")]
    plain = _continue(model, tokenizer, batch, 6)
    given = model.generation_config.to_dict() | {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    monkeypatch.setattr(model, "generation_config", GenerationConfig(**given))
    assert _continue(model, tokenizer, batch, 6) == plain


@pytest.mark.long
def test_answers_do_not_depend_on_the_batch(model: Any, tokenizer: Any, tools: Tools, rng: np.random.Generator) -> None:
    left = prune(parse_method("budget:0.5"), random_thinkings(tokenizer, rng, 12), tools)
    boxes = [OpenBox(row.asked_ids, row.stub) for row in left]
    settings = {"max_tokens": 12, "tokens_per_pass": PASS}
    together = force_answers(model, tokenizer, boxes, batch_size=12, **settings)
    assert together == [force_answers(model, tokenizer, [box], batch_size=1, **settings)[0] for box in boxes]


def test_frontier_agrees_with_a_comparison_of_all_pairs(rng: np.random.Generator) -> None:
    for _ in range(300):
        points = [(float(x), float(y)) for x, y in rng.integers(5, size=(rng.integers(1, 8), 2))]
        beaten = [
            any(x <= tokens and y >= accuracy and (x, y) != (tokens, accuracy) for x, y in points)
            for tokens, accuracy in points
        ]
        assert on_frontier(points) == [not flag for flag in beaten]


def table(**methods: Sequence[tuple[str, int, bool, bool]]) -> list[MethodOutcome]:
    return [
        MethodOutcome(
            question_id=question,
            method=method.split("_")[0],
            setting=method.partition("_")[2] or None,
            tokens_before=10,
            tokens_after=tokens,
            correct=correct,
            leaked=leaked,
            nll=1.0,
        )
        for method, rows in methods.items()
        for question, tokens, correct, leaked in rows
    ]


def test_compare_methods() -> None:
    whole = [("p", 10, True, True), ("p", 10, True, False), ("q", 10, True, False)]
    half = [("p", 5, True, False), ("p", 3, False, False), ("q", 2, False, True)]
    rows = table(
        none=whole, budget_51=half, budget_92=[("p", 9, False, True), ("p", 9, False, True), ("q", 9, False, True)]
    )
    none, five, nine = compare_methods(rows, seed=0)
    assert (none.name, none.setting, none.n) == ("none", None, 3)
    assert (none.accuracy.mean, none.difference.mean, none.kept) == (1, 0, 1)
    assert (five.name, five.setting) == ("budget", "51")
    assert five.tokens.mean == 3  # 4 for question p, 2 for question q
    assert five.accuracy == MeanInterval(0.25, 0.0, 0.5)
    assert five.difference.mean == -0.75
    assert five.pass_at_k.mean == 0.25  # k is 1, because q has a single trajectory
    assert "pass@1" in five.as_json()
    assert five.kept == pytest.approx(10 / 30)
    assert (five.leaked, five.accuracy_without_leak) == (pytest.approx(1 / 3), 0.5)
    assert nine.accuracy_without_leak is None
    assert [row.frontier for row in (none, five, nine)] == [True, True, False]
    figure = frontier_figure([none, five, nine])
    assert figure.startswith("<svg")
    assert figure == frontier_figure([none, five, nine])
    for name in ("none", "budget", "51", "92"):
        assert figure.count(f">{name}</text>") == 1


def test_pass_at_k_counts_questions_with_a_correct_trajectory() -> None:
    whole = [(question, 10, True, False) for question in "ppqq"]
    rows = table(none=whole, budget_5=[("p", 5, True, False), ("p", 5, False, False), *[("q", 5, False, False)] * 2])
    [none, five] = compare_methods(rows, seed=0)
    assert (none.pass_at_k.mean, five.pass_at_k.mean, five.accuracy.mean) == (1, 0.5, 0.25)
