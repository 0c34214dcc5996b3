"""Progress bars of commands that several processes may run together."""

from tqdm import tqdm

from raml_trl.runtime.runs import is_first_process


def progress_bar(total: int, desc: str, unit: str) -> "tqdm[None]":
    """Return a bar for `total` units of work, which only the first process shows.

    `desc` is the text before the bar, and `unit` is the name of a unit. As for every bar of tqdm, the environment
    variable TQDM_DISABLE hides it.
    """
    return tqdm(total=total, desc=desc, unit=unit, **({} if is_first_process() else {"disable": True}))
