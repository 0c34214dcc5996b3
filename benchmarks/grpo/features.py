"""Measures how closely our trainer agrees with TRL's, feature by feature of TRL's `GRPOTrainer`.

The columns of the result are those of `raml-trl check_trl`.

    python -m benchmarks.grpo.features
    python -m benchmarks.grpo.features --only tools   # print the rows whose name contains a word; write nothing
"""

import sys
from collections.abc import Iterator

from tqdm import tqdm

from benchmarks.grpo.feature_cases import feature_cases
from benchmarks.harness import parse, write
from raml_trl.grpo.agreement.comparison import COLUMNS, Agreement, measure
from raml_trl.grpo.agreement.results import agreement_table, as_json

TOLERANCE = 1e-4
_, DEFAULT, DROP = COLUMNS
_ROUNDING = "Numbers of bfloat16 have 8 significant bits, so sums in another order differ by about 1 %."
_MEAN = "`subset_mode: mask` is rejected: it would include all G in a term that is a mean over a micro-batch."
_NOISE = "The two modes run batches of different shapes, for which dropout draws different numbers."
_UNKNOWN = (
    "m < G is rejected: nothing says what the overridden loss divides by. A class declares it with `loss_normalizer`, "
    "as the GMPO trainers do here."
)
_SCORED = (
    "The gradients are equal. The metrics `sampling/*` cover the rows whose log-probs are computed: the m, or all G."
)
EXPLAINED: dict[str, tuple[tuple[str, ...], str]] = {
    "bf16": ((DEFAULT,), _ROUNDING),
    "a bfloat16 model": ((DEFAULT, DROP), _ROUNDING),
    "entropy_coef": ((DROP,), _MEAN),
    "use_adaptive_entropy": ((DROP,), _MEAN),
    "a mixture of experts": ((DROP,), _MEAN),
    "LoRA with dropout": ((DROP,), _NOISE),
    "dropout (GPT-2)": ((DROP,), _NOISE),
    "vLLM's correction": ((DROP,), _SCORED),
    "_compute_loss with a term": ((DROP,), _UNKNOWN),
}
"""Why cells exceed the tolerance or are rejected: by the start of the feature's name, the columns and the reason."""


def is_explained(feature: str, column: str) -> bool:
    """Return whether `EXPLAINED` has a reason for a cell."""
    return any(feature.startswith(start) and column in columns for start, (columns, _) in EXPLAINED.items())


def explanations_table() -> str:
    """Return a Markdown table of `EXPLAINED`."""
    rows = [f"| {start} | {', '.join(columns)} | {reason} |" for start, (columns, reason) in EXPLAINED.items()]
    return "\n".join(["| feature | columns | reason |", "|---|---|---|", *rows])


def measure_features(only: str = "") -> Iterator[Agreement]:
    """Yield the agreement for every feature whose name contains `only`."""
    cases = [case for case in feature_cases() if only in case.name]
    yield from tqdm(measure(cases), total=len(cases), desc="features")


def main() -> None:
    """Measure, print the table, and write the results."""
    given = parse(str(__doc__), only="")
    agreements = list(measure_features(given.only))
    sys.stdout.write(agreement_table(agreements, head="feature of TRL") + "\n")
    if not given.only:
        write(given.output_dir, "features", {"tolerance": TOLERANCE}, as_json(agreements))


if __name__ == "__main__":
    main()
