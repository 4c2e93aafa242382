"""What a run found, in plain words."""

from __future__ import annotations

from racer.bench.report.formats import count, mean, number, percent, ratio, with_interval
from racer.bench.report.markdown import code, escape
from racer.bench.report.reading import HF, PLAIN, Run, known

SPEEDUP = "speedup_vs_none"


def findings(run: Run) -> list[str]:
    """Paragraphs: how fast the best RACER method is, where, whether it says the same, and who was slower."""
    best = fastest(run, run.exact) or fastest(run, run.drafters)
    first = "No method of RACER was measured in this run."
    paragraphs = [first] if best is None else [" ".join([_headline(run, best), _where(run, best)]).strip()]
    if best is not None:
        paragraphs.append(_identity(run, best))
    paragraphs += _lossy(run, best)
    paragraphs += _slower(run)
    paragraphs += _failures(run)
    return paragraphs


def _failures(run: Run) -> list[str]:
    """What failed: a call, or a plugin within one."""
    answered = sum(bool(failure.get("answered")) for failure in run.failures)
    failed = len(run.failures) - answered
    told = [f"{failed} {'call' if failed == 1 else 'calls'} failed"] if failed else []
    told += [f"in {answered} {'call' if answered == 1 else 'calls'} a plugin was left out"] if answered else []
    return [f"{' and '.join(told).capitalize()}; the list is below."] if told else []


def fastest(run: Run, methods: list[str]) -> str | None:
    """The method with the best speedup, or without a baseline the most tokens/s; None if none was measured."""
    for figure in (SPEEDUP, "tokens_per_second"):
        measured = {m: value for m in methods if (value := run.value(m, figure)) is not None}
        if measured:
            return max(measured, key=lambda method: measured[method])
    return None


def speedup(run: Run, method: str, baseline: str = PLAIN, group: str | None = None, strong: bool = False) -> str:
    """``1.43x (1.38-1.49)``."""
    figure = f"speedup_vs_{baseline}"
    return with_interval(run.value(method, figure, group), run.interval(method, figure, group), ratio, strong)


def _headline(run: Run, best: str) -> str:
    gain = run.value(best, SPEEDUP)
    theirs = run.value(best, f"speedup_vs_{HF}")
    rivals = len(run.exact)
    pace = f"{number(run.value(best, 'tokens_per_second'))} tokens/s"
    if (accepted := run.value(best, "mean_accepted_tokens")) is not None:
        pace += f" at {mean(accepted)} mean accepted tokens"
    if gain is None:
        against = pace
    else:
        against = f"{speedup(run, best, strong=True)} the speed of plain decoding"
        if theirs is not None:
            against += f" and {speedup(run, best, HF, strong=True)} that of transformers' `generate`"
        against += f" ({pace})"
    rank = f", the fastest of RACER's {rivals} exact methods" if rivals > 1 and best in run.exact else ""
    words = f"{code(best)} decodes at {against}{rank}."
    if gain is not None and gain < 1:
        words = f"**No method of RACER is faster than plain decoding in this run.** {words}"
    ends = run.interval(best, SPEEDUP)
    if ends is not None and ends[0] <= 1 <= ends[1]:
        words += " The interval holds 1.00x, so this run leaves open whether plain decoding is slower or faster."
    return words


def _where(run: Run, best: str) -> str:
    gains = {group: value for group in run.groups if (value := run.value(best, SPEEDUP, group)) is not None}
    if len(gains) < 2:
        return ""
    most, least = (choose(gains, key=lambda group: gains[group]) for choose in (max, min))
    return (
        f"It helps most in {escape(most)} ({ratio(gains[most])}) and least in {escape(least)} ({ratio(gains[least])})."
    )


def _identity(run: Run, best: str) -> str:
    same = run.value(best, "identical_rate")
    if same is None:
        return "Whether its answers are those of plain decoding was not measured."
    if same == 1:
        return "All its answers are those of plain decoding, token for token."
    words = f"{percent(same)} of its answers are those of plain decoding, token for token."
    if (theirs := run.value(HF, "identical_rate")) is not None and theirs < 1:
        words += f" (Those of transformers' plain decoding are in {percent(theirs)}, by other roundings.)"
    gap = run.value(best, "divergence_gap_median")
    if gap is not None:
        words += f" Where the others part, the plain model's two best logits are {number(gap)} apart (median)."
    rates = {m: rate for m in run.exact or run.drafters if (rate := run.value(m, "identical_rate")) is not None}
    closest = max(rates, key=lambda method: (rates[method], run.value(method, SPEEDUP) or 0.0))
    if rates[closest] > same:
        words += (
            f" Of RACER's methods {code(closest)} keeps most to plain decoding, in {percent(rates[closest])} of its "
            f"answers, at {speedup(run, closest)}."
        )
    return words


def _lossy(run: Run, best: str | None) -> list[str]:
    """What a lossy method is faster by, and that it is lossy."""
    rival = fastest(run, [method for method in run.drafters if method not in run.exact])
    if rival is None:
        return []
    words = f"{code(rival)} runs at {speedup(run, rival)}, but its verifier is lossy: its answers may be others."
    return [words if rival != best else f"{code(rival)} has a lossy verifier: its answers may be others."]


def _slower(run: Run) -> list[str]:
    """One list of the methods that are slower than plain decoding somewhere."""
    lines, unclear, measured = [], False, False
    for method in run.methods:
        if method == PLAIN:
            continue
        gains = {group: value for group in run.groups if (value := run.value(method, SPEEDUP, group)) is not None}
        slow = sorted((group for group in gains if gains[group] < 1), key=lambda group: gains[group])
        measured = measured or bool(gains)
        if not slow:
            continue
        ends = [run.interval(method, SPEEDUP, group) for group in slow]
        unclear = unclear or any(end is not None and end[0] <= 1 <= end[1] for end in ends)
        where = ", ".join(f"{escape(group)} {speedup(run, method, group=group)}" for group in slow)
        every = "every group: " if len(slow) == len(gains) > 1 else ""
        lines.append(f"- {code(method)} in {every}{where}")
    if not lines:
        return ["No method was slower than plain decoding in any group."] if measured else []
    words = ["**Slower than plain decoding**, speed relative to it:", "\n".join(lines)]
    return words + (["Where an interval holds 1.00, the run leaves open which is faster."] if unclear else [])


def subtitle(run: Run) -> str:
    """The run in one line."""
    setup = run.setup
    asked = [known(n) for n in (setup.get("groups") or {}).values()]
    parts = [escape(setup[name]) for name in ("dtype", "device_name") if setup.get(name)]  # the title has the model
    total = count(sum(n for n in asked if n is not None))
    parts.append(f"{total} questions in {_plural(len(run.groups), 'group')}")
    parts.append(_plural(len(run.methods), "method"))
    return " · ".join([*parts, *([escape(setup["date"])[:10]] if setup.get("date") else [])])


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
