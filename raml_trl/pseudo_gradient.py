r"""How likely a model finds the answer along trajectories, token by token: does thinking descend?

    python -m raml_trl.pseudo_gradient --config recipes/tiny/analysis/pseudo_gradient.yaml

RaML reads a trajectory as steps of a descent on -log p(answer). This measures it after every prefix of right and wrong
trajectories, of a rollout data set or drawn here, with thinking and without; marks where thinking ends and where the
answer is first stated, measures the descent before that place, and asks which tokens move the likelihood.

`output_dir` gets `curves.parquet`, every curve; `pseudo_gradient.json`, what follows from them; two figures, and
`page.html`, where the tokens lie under the curve. A killed run carries on; under `accelerate launch` processes share.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from raml_trl.analysis.analysis_tasks import read_or_sample
from raml_trl.analysis.config import PseudoGradientConfig
from raml_trl.analysis.descent.curves import Curve, Mode, bands, summarise_descent, summarise_modes
from raml_trl.analysis.descent.experiment import bands_figure, effects_figure
from raml_trl.analysis.descent.token_effects import compare_groups, effects
from raml_trl.analysis.likelihood import Probe, answer_nll_each, make_probe
from raml_trl.analysis.sentences import split_sentences
from raml_trl.analysis.trajectories import ANSWERING, TrajectoryTokens, encode_answer, tokenise
from raml_trl.data.records import Task
from raml_trl.prompts import NO_THINKING
from raml_trl.render.html import write_page
from raml_trl.runtime.cli import run
from raml_trl.runtime.files import remove_partials, whole_file, write_json, write_rows
from raml_trl.runtime.runs import Run, is_first_process, process_share
from raml_trl.sampling.loading import check_model, load_model, shown_name

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("question_id", "question", "answer", "mode", "text"), pa.string()),
        **dict.fromkeys(("number", "start", "end", "stated"), pa.int32()),  # stated: null if it never is
        "sentences": pa.list_(pa.int32()),  # prefixes of the thinking that end with one
        "correct": pa.bool_(),
        "ends": pa.list_(pa.int32()),  # characters of the text up to the end of each token
        "nll": pa.list_(pa.float32()),  # after 0, 1, ... tokens
    }
)
_WITHOUT = "no_thinking"


def main(config: PseudoGradientConfig, record: Run) -> None:
    """Measure this process's share, and close the run if it was the last."""
    started = time.monotonic()
    check_model(config.model_name_or_path)
    parts = measure(config)
    if parts is None:
        logger.info("other processes still have curves to measure: the last of them closes the run")
        return
    table = pa.concat_tables([pq.read_table(path) for path in parts])
    with whole_file(record.directory / "curves.parquet") as partial:
        pq.write_table(table, partial)
    rows = table.to_pylist()
    summary = summarise(rows, config)
    write_json(record.directory / "pseudo_gradient.json", summary)
    draw(record.directory, rows, summary, config)
    record.writes = True  # whichever process of the launch this is, it is the last
    record.finish(time.monotonic() - started, summary)
    for path in parts:
        path.unlink()
    remove_partials(record.directory)


def measure(config: PseudoGradientConfig) -> list[Path] | None:
    """The files of all curves, or None if other processes are still at work on some."""
    drawn: dict[Mode, list[Task] | None] = {"thinking": read_or_sample(config)}
    if config.no_thinking != "none":
        apart = replace(config, output_dir=str(Path(config.output_dir) / _WITHOUT))
        drawn["no_thinking"] = read_or_sample(apart, opening=NO_THINKING[config.no_thinking])
    parts: dict[Path, tuple[Mode, Sequence[Task]]] = {}
    for mode, tasks in drawn.items():
        if tasks is None:
            return None
        for first in range(0, len(tasks), config.questions_per_shard):
            path = Path(config.output_dir) / f"curves-{mode}-{first:05d}.parquet"
            parts[path] = (mode, tasks[first : first + config.questions_per_shard])
    index, of = process_share()
    missing = {path: part for path, part in list(parts.items())[index::of] if not path.exists()}
    if missing:
        model, tokenizer = load_model(config.model_name_or_path, dtype=config.dtype, all_devices=config.all_devices)
        total = sum(len(task.trajectories) for _, tasks in missing.values() for task in tasks)
        with tqdm(total=total, desc="curves", unit="trajectory", disable=not is_first_process()) as bar:
            for path, part in missing.items():
                rows = []
                for row in curve_rows(model, tokenizer, *part, config):
                    rows.append(row)
                    bar.update()
                write_rows(path, rows, _SCHEMA)
    return list(parts) if all(path.exists() for path in parts) else None


def curve_rows(
    model: Any, tokenizer: Any, mode: Mode, tasks: Sequence[Task], config: PseudoGradientConfig
) -> Iterator[dict[str, Any]]:
    """A row for each trajectory of `tasks`, in order of their lengths."""
    opening = NO_THINKING[config.no_thinking] if mode == "no_thinking" else ""
    # Thinking that is over is not closed once more.
    stub = config.answer_stub.rpartition(ANSWERING)[2] if opening else config.answer_stub
    read = [
        tokenise(tokenizer, task.question, number, trajectory, config.prompt_style)
        for task in tasks
        for number, trajectory in enumerate(task.trajectories)
    ]
    read.sort(key=lambda one: len(one.ids))
    probes = [_probe(tokenizer, one, stub) for one in read]
    for one, nll in zip(read, answer_nll_each(model, probes, tokens_per_pass=config.tokens_per_pass), strict=True):
        start, end = one.thinking_start, one.thinking_end
        if opening or end is None:  # what is written before the box
            start = max(start, one.reaches(len(opening)))
            end = one.box_after(len(opening))
        end = len(one.ids) if end is None else max(start, end)
        yield {
            "question_id": one.question.id,
            "question": one.question.question,
            "answer": one.question.answer,
            "number": one.number,
            "mode": mode,
            "correct": one.trajectory.correct,
            "text": one.text,
            "ends": one.ends,
            "nll": nll.mean(dim=1).tolist(),
            "start": start,
            "end": end,
            "stated": one.stated,
            "sentences": sentence_ends(one, start, end),
        }


def sentence_ends(one: TrajectoryTokens, start: int, end: int) -> list[int]:
    """The prefix lengths after each sentence between two of them."""
    first, last = ([0, *one.ends][t] for t in (start, end))
    return [one.reaches(first + place) for place in accumulate(map(len, split_sentences(one.text[first:last])))]


def _probe(tokenizer: Any, one: TrajectoryTokens, stub: str) -> Probe:
    stub_ids, answer_ids = encode_answer(tokenizer, stub, one.question.answer)
    return make_probe(one.prompt_ids, one.ids, answer_ids, stub_ids=stub_ids)


def summarise(rows: Sequence[dict[str, Any]], config: PseudoGradientConfig) -> dict[str, Any]:
    """What the curves say: a function of them, of the window and of the seed."""
    curves, rng = [to_curve(row) for row in rows], np.random.default_rng(config.seed)
    measured = [
        effects(row["question_id"], row["text"], row["ends"], curve.nll, curve.start, curve.last, config.window)
        for row, curve in zip(rows, curves, strict=True)
        if curve.mode == "thinking"
    ]
    return {
        "model": shown_name(config.model_name_or_path),
        "modes": summarise_modes(curves, rng),
        "descent": summarise_descent(curves, rng),
        "descent_by_sentence": summarise_descent(curves, rng, by_sentence=True),
        "token_effects": compare_groups([one for one in measured if len(one.values)], rng),
        "window": config.window,
    }


def to_curve(row: dict[str, Any]) -> Curve:
    """The curve in a row of `curves.parquet`."""
    names = ("question_id", "number", "correct", "mode", "start", "end", "stated")
    named = {name: row[name] for name in names}
    return Curve(nll=np.array(row["nll"], dtype=np.float64), sentences=tuple(row["sentences"]), **named)


def draw(
    directory: Path, rows: Sequence[dict[str, Any]], summary: dict[str, Any], config: PseudoGradientConfig
) -> None:
    """The figures and the page."""
    curves = [to_curve(row) for row in rows]
    along = [band for axis in ("share", "tokens") for band in bands(curves, axis)]
    figures = {"curves.svg": bands_figure(along), "token_effects.svg": effects_figure(summary["token_effects"])}
    for name, figure in figures.items():
        with whole_file(directory / name) as partial:
            partial.write_text(figure, encoding="utf-8")
    content = {
        "title": "Pseudo gradient descent",
        "lead": "How unlikely the model finds the reference answer after every token of a trajectory: the mean of "
        "-log p over the answer's tokens, in nats. Where the answer already stands in the text, it can be copied.",
        "trajectories": [shown(row) for row in choose_shown(rows, config.num_shown)],
        "bands": along,
        "descent": [
            {**row, "after": unit}
            for unit, name in (("token", "descent"), ("sentence", "descent_by_sentence"))
            for row in summary[name]
        ],
    }
    write_page(directory / "page.html", "pseudo_gradient", summary | content)


def choose_shown(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The first rows of each mode, right and wrong in turn, as many as `number`, by question; none without a token."""
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    written = [row for row in rows if row["ends"]]
    for row in sorted(written, key=lambda row: (row["question_id"], row["number"])):
        groups.setdefault((row["mode"], row["correct"]), []).append(row)
    longest = max(map(len, groups.values()), default=0)
    in_turn = [group[place] for place in range(longest) for group in groups.values() if place < len(group)]
    return sorted(in_turn[:number], key=lambda row: (row["question_id"], row["mode"] != "thinking", row["number"]))


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A trajectory as the page takes it."""
    return {
        **{name: row[name] for name in ("question", "answer", "number", "correct", "mode", "nll", "stated")},
        "tokens": [row["text"][start:end] for start, end in pairwise([0, *row["ends"]])],
        "thinking_end": row["end"] if row["mode"] == "thinking" and row["end"] < len(row["ends"]) else None,
    }


if __name__ == "__main__":
    run(main, PseudoGradientConfig, distributed=True)
