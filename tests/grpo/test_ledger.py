"""The ledger charges time to the running phase, and its speed-ups match calculations by hand."""

from collections.abc import Iterator

import numpy as np
import pytest

from raml_trl.grpo.ledger import PHASES, Ledger, ceiling, is_uncertain, speedup, summary, summary_lines


def clock(*times: float) -> Iterator[float]:
    return iter(times)


def test_an_inner_phase_pauses_the_outer_one() -> None:
    times = clock(0, 10, 13, 20)
    ledger = Ledger(lambda: next(times))
    with ledger.phase("updating"), ledger.phase("generating"):
        pass
    assert ledger.seconds["generating"] == 3  # 10 to 13
    assert ledger.seconds["updating"] == 17  # 0 to 10 and 13 to 20


def test_evaluation_is_charged_to_no_phase() -> None:
    times, training = clock(0, 1, 5, 7, 10, 11), True
    ledger = Ledger(lambda: next(times), training=lambda: training)
    with ledger.phase("updating"), ledger.paused():
        training = False
        with ledger.phase("generating"):
            pass
    assert ledger.seconds == dict.fromkeys(PHASES, 0.0) | {"updating": 2}  # 0 to 1 and 10 to 11


def test_time_between_phases_is_not_charged() -> None:
    times = clock(0, 1, 100, 101)
    ledger = Ledger(lambda: next(times))
    for _ in range(2):
        with ledger.phase("updating"):
            pass
    assert sum(ledger.seconds.values()) == 2


def test_a_lap_holds_the_seconds_since_the_previous_lap() -> None:
    ledger = Ledger(clock=lambda: 0.0)
    ledger.seconds["updating"] = 2.0
    assert ledger.lap() == dict.fromkeys(PHASES, 0.0) | {"updating": 2.0}
    ledger.seconds["updating"] = 5.0
    assert ledger.lap()["updating"] == 3.0
    resumed = Ledger(clock=lambda: 0.0)
    resumed.restore(ledger.state())
    assert resumed.lap()["updating"] == 0.0


def test_a_restored_ledger_continues() -> None:
    first = Ledger(clock=lambda: 0.0)
    first.count(rollouts=8)
    first.seconds |= {"scoring": 2.5, "updating": 1.5}
    first.observe_update(10, 1.5)
    second = Ledger(clock=lambda: 0.0)
    second.restore(first.state())
    second.count(rollouts=8, selected=4)
    assert second.update_seconds(20) == first.update_seconds(20) == 3.0
    assert second.counts == {"rollouts": 16, "selected": 4}
    assert second.seconds["scoring"] == 2.5


def test_ceiling() -> None:
    assert ceiling(0.5, 0.25) == pytest.approx(1.6)  # 1 / (0.5 + 0.125)
    assert ceiling(0.0, 0.25) == 4
    assert ceiling(1.0, 0.25) == 1


def test_speedup_compares_with_all_rows_at_trls_padding() -> None:
    ledger = Ledger(clock=lambda: 0.0)
    ledger.seconds |= {"generating": 6.0, "updating": 1.0, "selecting": 0.5}
    ledger.count(cells_updating=100, cells_updating_all=400, cells_padding=20, tokens_updating=80)
    for _ in range(2):
        ledger.observe_update(50, 0.5)
    # training on all takes 6 + 1 * 400 / 100 = 10 seconds, and a share of 0.6 of them is generating; ours took 7.5
    assert speedup(ledger, 0.5) == {"ceiling": pytest.approx(1 / 0.8), "estimated": pytest.approx(10 / 7.5)}
    record = summary(ledger, 0.5)
    assert record["padding"] == pytest.approx(0.2)
    assert "padding 20.0%" in summary_lines(record)


def test_a_run_that_trained_on_nothing_says_so() -> None:
    ledger = Ledger(clock=lambda: 0.0)
    warning = "selected rollouts had a gradient"
    assert warning not in summary_lines(summary(ledger, 0.5))  # nothing was generated
    ledger.count(rollouts=80, selected=40, trained=1)
    assert f"Only 1 of 40 {warning}" in summary_lines(summary(ledger, 0.5))
    ledger.count(trained=1)
    assert warning not in summary_lines(summary(ledger, 0.5))


def test_the_constant_cost_of_a_micro_batch_is_not_attributed_to_its_cells() -> None:
    ledger = Ledger(clock=lambda: 0.0)
    for cells in (10, 20, 60):
        ledger.observe_update(cells, 1.0 + 0.1 * cells)  # 1 s, and 0.1 s per cell
    ledger.seconds["updating"] = 13.0  # 3 + 9, and 1 for the optimizer
    assert ledger.update_seconds(90) == pytest.approx(13)
    assert ledger.update_seconds(290) == pytest.approx(33)  # 200 cells more


def test_the_first_micro_batch_does_not_set_the_price_of_a_cell() -> None:
    ledger = Ledger(clock=lambda: 0.0)
    ledger.observe_update(10, 9.0)  # with checks that run once
    for cells in (20, 60):
        ledger.observe_update(cells, 0.1 * cells)
    ledger.seconds["updating"] = 17.0
    assert ledger.update_seconds(290) == pytest.approx(17 + 0.1 * 200)
    assert ledger.later_update_seconds() == pytest.approx(9.0)  # 0.1 s for each of 90 cells
    resumed = Ledger(clock=lambda: 0.0)
    resumed.restore(ledger.state())
    resumed.observe_update(10, 9.0)  # the checks run again
    assert resumed.update_seconds(300) == pytest.approx(17 + 0.1 * 200)


@pytest.mark.parametrize("seconds", [[5.0, 1.0], [0.1, 9.0]])
def test_the_price_of_a_cell_lies_between_zero_and_the_mean_cost(seconds: list[float]) -> None:
    ledger = Ledger(clock=lambda: 0.0)
    for cells, spent in zip((10, 20), seconds, strict=True):
        ledger.observe_update(cells, spent)
    ledger.seconds["updating"] = sum(seconds)
    assert sum(seconds) <= ledger.update_seconds(60) <= 2 * sum(seconds)


def test_the_interval_of_the_seconds_of_a_cell() -> None:
    """Equal to numpy's fit, with Student's t for 3 degrees of freedom from a table."""
    cells, seconds = [10, 20, 30, 40, 50], [1.0, 2.5, 2.9, 4.2, 4.8]
    ledger = Ledger(clock=lambda: 0.0)
    for number, spent in zip([7, *cells], [9.0, *seconds], strict=True):
        ledger.observe_update(number, spent)  # the first one is left out
    (slope, _), covariance = np.polyfit(cells, seconds, 1, cov=True)
    half = 3.182446 * np.sqrt(covariance[0, 0])
    assert ledger.cell_seconds() == pytest.approx({"fitted": slope, "low": slope - half, "high": slope + half})
    assert summary(ledger, 0.5)["cell_seconds"] == ledger.cell_seconds()


@pytest.mark.parametrize(
    ("cells", "fitted"),
    [([10, 10, 10, 10], 0.3), ([10, 20, 40], 0.0)],  # of one size: the mean time; only two without the first
)
def test_micro_batches_that_do_not_determine_an_interval(cells: list[int], fitted: float) -> None:
    ledger = Ledger(clock=lambda: 0.0)
    for number in cells:
        ledger.observe_update(number, 3.0)
    assert ledger.cell_seconds() == pytest.approx({"fitted": fitted, "low": None, "high": None})


def test_an_estimate_from_micro_batches_that_vary_is_called_rough() -> None:
    costs = summary(Ledger(clock=lambda: 0.0), 0.5)
    rough = "from the times of micro-batches (rough here, because they are few or vary); training on m"
    assert not is_uncertain(costs)  # of an older version, or without an update
    for low, says_so in ((0.6, False), (0.4, True), (None, True)):
        costs["cell_seconds"] = {"fitted": 1.0, "low": low, "high": low and 2 - low}
        assert is_uncertain(costs) is says_so
        assert (rough in summary_lines(costs)) is says_so


def test_speedup_before_the_first_step() -> None:
    assert speedup(Ledger(clock=lambda: 0.0), 0.5) == {"ceiling": 1.0, "estimated": 1.0}
