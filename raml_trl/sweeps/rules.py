"""Reads a file of rules. A rule is a way to choose rollouts, tokens or questions. Rules are compared at equal cost.

The file is YAML:

    baseline: all                       # the arm with which all others are compared
    arms:                               # settings of train_grpo, by name of the arm
      all: {}
      random_4: {num_generations_update: 4}
    worlds:                             # where to start and what to learn; {seed} stands for the seed of a run
      arithmetic:
        model: runs/starts/seed-{seed}/sft
        questions: runs/starts/seed-{seed}/data_grpo
        test: runs/starts/data_test
        settings: {max_completion_length: 40}
    settings: {num_generations: 8}      # settings of train_grpo, for every run
    prompt_style: bare
    learning_rates: [1.0e-4, 3.0e-4]    # every arm is tuned over these, in each world
    tuning: {seeds: [100, 101], tokens: 50000, evaluations: 1}
    comparison: {seeds: [0, 1, 2], tokens: 100000, evaluations: 4}
    num_samples: 4                      # answers to each test question in an evaluation
    correction: holm                    # of the p-values, over the arms of a world; none: no correction

A run starts from the model of its seed and trains until it has generated a number of tokens, so that other work on the
machine does not change how far it gets. An arm must not set `temperature`, `max_completion_length` or
`per_device_eval_batch_size`, because evaluations use them too. The seeds for tuning must not occur in the comparison,
so that no arm is compared on the runs that chose its learning rate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from raml_trl.prompts import find_style
from raml_trl.runtime.errors import InputError
from raml_trl.runtime.files import Settings, read_yaml

Correction = Literal["holm", "none"]

_FEWEST_SEEDS = 3
_OWN_SETTINGS = ("learning_rate", "seed", "output_dir", "max_steps")
_EVALUATION_SETTINGS = ("temperature", "max_completion_length", "per_device_eval_batch_size")
"""The settings of training that evaluations use too. They are the same for all arms of a world."""


@dataclass(frozen=True)
class World:
    """A model to start from, and a task. Paths may contain `{seed}`, which stands for the seed of a run.

    `model` is the model that training starts from, `questions` is the dataset to train on, and `test` has the
    questions of the evaluations. `settings` are settings of `train_grpo` for every run in this world.
    """

    model: str
    questions: str
    test: str
    settings: Settings

    def of_seed(self, seed: int) -> "World":
        """Return the world with `{seed}` in its paths replaced by `seed`."""
        model, questions, test = (path.replace("{seed}", str(seed)) for path in (self.model, self.questions, self.test))
        return World(model, questions, test, self.settings)


@dataclass(frozen=True)
class Stage:
    """One of the two stages, tuning and comparison: its seeds, and the length of each run.

    A run trains until it has generated `tokens` completion tokens. In training it is evaluated `evaluations` times,
    after equal shares of these tokens; an evaluation before training is not counted.
    """

    seeds: tuple[int, ...]
    tokens: int
    evaluations: int


@dataclass(frozen=True)
class RuleRun:
    """One training run: an arm (a rule) in a world (a task and start model), with one seed and one learning rate.

    `start` is the world with the seed in its paths, and `settings` are all settings of `train_grpo` for the run.
    `tokens` and `evaluations` are those of its stage. An evaluation draws `num_samples` answers to each test question.
    """

    world: str
    arm: str
    stage: str
    seed: int
    learning_rate: float
    tokens: int
    evaluations: int
    num_samples: int
    prompt_style: str
    start: World
    settings: Settings

    @property
    def name(self) -> str:
        """A name that no other run of the file has. It is also the run's path below the directory of the results."""
        return f"{self.world}/{self.stage}/{self.arm}-{self.learning_rate:g}-seed-{self.seed}"

    def as_json(self) -> dict[str, Any]:
        """Return everything that determines the run."""
        return asdict(self)


@dataclass(frozen=True)
class Rules:
    """The content of a file of rules. The top of this module explains the entries."""

    baseline: str
    arms: Mapping[str, Settings]
    worlds: Mapping[str, World]
    settings: Settings
    prompt_style: str
    learning_rates: tuple[float, ...]
    tuning: Stage
    comparison: Stage
    num_samples: int
    correction: Correction

    def tuning_runs(self) -> Iterator[RuleRun]:
        """Yield the runs that choose the learning rates: every arm with every rate, for each world and seed."""
        for seed in self.tuning.seeds:
            for world in self.worlds:
                for rate in self.learning_rates:
                    for arm in self.arms:
                        yield self._run("tuning", world, arm, seed, rate)

    def comparison_runs(self, rates: Mapping[tuple[str, str], float]) -> Iterator[RuleRun]:
        """Yield the runs that are compared. `rates` has the learning rate of each world and arm.

        The runs are sorted by seed, so that an interrupted comparison has all arms and worlds for its first seeds.
        """
        for seed in self.comparison.seeds:
            for world in self.worlds:
                for arm in self.arms:
                    yield self._run("comparison", world, arm, seed, rates[world, arm])

    def all_runs(self) -> Iterator[RuleRun]:
        """Yield all runs of both stages.

        Runs of the comparison have the first learning rate, because their best one is known only after the tuning.
        """
        first = {(world, arm): self.learning_rates[0] for world in self.worlds for arm in self.arms}
        yield from (*self.tuning_runs(), *self.comparison_runs(first))

    def _run(self, stage: Literal["tuning", "comparison"], world: str, arm: str, seed: int, rate: float) -> RuleRun:
        start = self.worlds[world].of_seed(seed)
        length = self.tuning if stage == "tuning" else self.comparison
        return RuleRun(
            world=world,
            arm=arm,
            stage=stage,
            seed=seed,
            learning_rate=rate,
            tokens=length.tokens,
            evaluations=length.evaluations,
            num_samples=self.num_samples,
            prompt_style=self.prompt_style,
            start=start,
            settings={**self.settings, **start.settings, **self.arms[arm], "learning_rate": rate, "seed": seed},
        )


def best_rates(scores: Mapping[tuple[str, str, float], Sequence[float]]) -> dict[tuple[str, str], float]:
    """Return, for each world and arm, the learning rate with the highest mean score.

    If several rates have the highest mean, it is the lowest of them. `scores` has the scores over the tuning seeds, by
    world, arm and rate.
    """
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for (world, arm, rate), values in scores.items():
        candidate = (fmean(values), -rate)
        best[world, arm] = max(best.get((world, arm), candidate), candidate)
    return {key: -negative for key, (_, negative) in best.items()}


def read_rules(path: Path) -> Rules:
    """Read a file of rules.

    Raises:
        InputError: if the file does not have the format described at the top of this module.
    """
    content = read_yaml(path)
    _check_keys(f"{path}", content, Rules.__dataclass_fields__)
    worlds = {}
    for name, world in _mapping(path, content, "worlds").items():
        _check_keys(f"{path}: world {name}", world, World.__dataclass_fields__)
        worlds[str(name)] = World(str(world["model"]), str(world["questions"]), str(world["test"]), world["settings"])
    arms = {str(name): arm for name, arm in _mapping(path, content, "arms").items()}
    by_name = {"settings": content["settings"], **arms, **{name: world.settings for name, world in worlds.items()}}
    for kind, settings in by_name.items():
        if not isinstance(settings, dict):
            raise InputError(f"{path}: {kind} must be a mapping of settings of train_grpo, got {settings!r}")
        own = next((name for name in _OWN_SETTINGS if name in settings), None)
        if own is not None:
            raise InputError(f"{path}: {kind} has {own}, which the comparison sets: remove it")
    for arm, settings in arms.items():
        changed = next((name for name in _EVALUATION_SETTINGS if name in settings), None)
        if changed is not None:
            raise InputError(
                f"{path}: arm {arm} has {changed}, which evaluations use too, so its scores could not be compared: "
                "set it in settings, or in the settings of a world"
            )
    if content["baseline"] not in arms:
        raise InputError(f"{path}: baseline {content['baseline']!r} is none of the arms {', '.join(arms)}")
    if content["correction"] not in ("holm", "none"):
        raise InputError(f"{path}: correction must be holm or none, got {content['correction']!r}")
    find_style(content["prompt_style"])
    rates = _numbers(f"{path}: learning_rates", content["learning_rates"])
    num_samples = _count(f"{path}: num_samples", content["num_samples"])
    tuning, comparison = (_stage(f"{path}: {name}", content[name]) for name in ("tuning", "comparison"))
    shared = sorted(set(tuning.seeds) & set(comparison.seeds))
    if shared:
        raise InputError(f"{path}: seed {shared[0]} is in tuning and in comparison: choose other seeds for tuning")
    if len(comparison.seeds) < _FEWEST_SEEDS:
        raise InputError(f"{path}: comparison has {len(comparison.seeds)} seeds, but intervals need {_FEWEST_SEEDS}")
    return Rules(
        baseline=content["baseline"],
        arms=arms,
        worlds=worlds,
        settings=content["settings"],
        prompt_style=content["prompt_style"],
        learning_rates=rates,
        tuning=tuning,
        comparison=comparison,
        num_samples=num_samples,
        correction=content["correction"],
    )


def _stage(prefix: str, content: object) -> Stage:
    _check_keys(prefix, content, Stage.__dataclass_fields__)
    assert isinstance(content, dict)
    seeds = content["seeds"]
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"{prefix}: seeds must be a list of different whole numbers, got {seeds!r}")
    tokens = _count(f"{prefix}: tokens", content["tokens"], most=10**12)
    return Stage(tuple(seeds), tokens, _count(f"{prefix}: evaluations", content["evaluations"]))


def _count(prefix: str, value: object, *, most: int = 1000) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise InputError(f"{prefix} must be a whole number from 1 to {most}, got {value!r}")
    return value


def _numbers(prefix: str, values: object) -> tuple[float, ...]:
    good = isinstance(values, list) and all(type(value) in (int, float) and 0 < value < 10**6 for value in values)
    if not good or not isinstance(values, list) or len(set(values)) < max(1, len(values)):
        raise InputError(f"{prefix} must be a list of different numbers above 0, got {values!r}")
    return tuple(map(float, values))


def _mapping(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content[name]
    if not isinstance(value, dict) or not value:
        raise InputError(f"{path}: {name} must be a mapping with at least one entry, got {value!r}")
    odd = next((key for key in value if not str(key).replace("_", "").isalnum()), None)
    if odd is not None:
        raise InputError(f"{path}: {name} has the name {odd!r}: use letters, digits and underscores")
    return value


def _check_keys(prefix: str, content: object, names: Mapping[str, object]) -> None:
    if not isinstance(content, dict) or content.keys() != set(names):
        got = ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)
        raise InputError(f"{prefix} must have {', '.join(names)}, and nothing else, got {got}")
