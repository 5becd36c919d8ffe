"""What an ablation answers to the questions that were fixed before it, in words and by rules.

A question is decided by its one endpoint, the mean score over the endpoint's tasks, through 95 % intervals over seeds:

- `ahead` is ahead of a variant where the interval lies above 0, and is not where its upper end lies below SMALLEST_GAIN
  (without lying above 0), which excludes a gain worth speaking of; both exactly equal in every seed counts as that.
- A claim holds where every pair is ahead, which needs no correction for their number (Berger, Technometrics 24, 1982:
  the intersection-union test) and is wrong at most once in 40 times. It does not hold where one pair is not ahead,
  which is wrong at most once in 40 times for each pair. All else is undecided.
- "Supported" and "not supported" take 5 seeds; with 3 or 4 the word is "suggestive", with fewer there is none.
- Audio that pre-training may have heard decides nothing alone: where some of the endpoint's tasks have a known overlap,
  the others by themselves must say the same, else the word is "suggestive". Likewise where a further pair that the
  claim speaks of was not trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aape_bench.ablation.statistics import SMALLEST_GAIN, Difference, Scores
from aape_bench.training import Question

LEAST_SEEDS, LEAST_FOR_SUGGESTIVE = 5, 3

Verdict = Literal["supported", "not supported", "suggestive", "undecided at this scale"]
Standing = Literal["ahead", "not ahead", "open"]


@dataclass(frozen=True)
class Answer:
    """What was found of one question.

    verdict: and where it is "suggestive" or decided, whether it speaks "for" or "against" the claim, else "".
    tasks: of the endpoint. pairs: the differences that decide; of `absent`, no seed has both. headline: claim and
    verdict in words. detail: the sentences that follow.
    """

    question: Question
    verdict: Verdict
    direction: Literal["for", "against", ""]
    tasks: tuple[str, ...]
    pairs: tuple[Difference, ...]
    absent: tuple[Difference, ...]
    headline: str
    detail: str

    @property
    def sentence(self) -> str:
        """All in words."""
        return f"{self.headline} {self.detail}"


def answer_all(
    scores: Scores, questions: Sequence[Question], endpoints: Mapping[str, Sequence[str]], protocol: str
) -> list[Answer]:
    """Answer every question. endpoints: name -> its tasks. protocol: the label of the one that decides."""
    return [_answer(scores, question, endpoints.get(question.endpoint, ()), protocol) for question in questions]


def standing(pair: Difference) -> Standing:
    """What an interval says of a pair."""
    if pair.equal:
        return "not ahead"
    if pair.low is None or pair.high is None:
        return "open"
    if pair.low > 0:
        return "ahead"
    return "not ahead" if pair.high < SMALLEST_GAIN else "open"


def _answer(scores: Scores, question: Question, tasks: Sequence[str], protocol: str) -> Answer:
    needed = [(question.ahead, of) for of in question.of]
    pairs = _pairs(scores, [*needed, *question.same_as], tasks, protocol)
    absent = [pair for pair in pairs if not pair.seeds]
    pairs = [pair for pair in pairs if pair.seeds]
    direction = _direction(pairs)
    if direction == "for" and any((pair.ahead, pair.of) in needed for pair in absent):
        direction = ""
    overlap = scores.marked("overlap", tasks, protocol)
    caps = []
    if overlap and direction:
        clean = [task for task in tasks if task not in overlap]
        alone = _pairs(scores, [(pair.ahead, pair.of) for pair in pairs], clean, protocol)
        if _direction(alone) != direction:
            unheard = "the tasks that are independent of the audio of pre-training do not say the same"
            caps.append(unheard if clean else "none of these tasks is independent of the audio of pre-training")
    if absent and direction == "for":
        caps.append(f"there is no result of {_listed([pair.name for pair in absent])}")
    seeds = _deciding_seeds(pairs, direction)
    if direction and seeds < LEAST_SEEDS:
        few = f"the {LEAST_SEEDS} that a decision takes"
        if seeds < LEAST_FOR_SUGGESTIVE:
            few = f"the {LEAST_FOR_SUGGESTIVE} that any word takes"
        caps.append(f"{seeds} seed{'' if seeds == 1 else 's'} are fewer than {few}")
    verdict: Verdict = "undecided at this scale"
    if direction and seeds >= LEAST_FOR_SUGGESTIVE:
        verdict = "suggestive" if caps else "supported" if direction == "for" else "not supported"
    said = [
        _measured(pairs, tasks, protocol),
        _because(pairs, absent, direction, caps) if tasks else "No task of its endpoint was run.",
        *_caveats(scores, pairs, overlap, tasks, protocol),
        *([_no_result(absent)] if absent and direction == "against" else []),
    ]
    return Answer(
        question,
        verdict,
        direction if verdict != "undecided at this scale" else "",
        tuple(tasks),
        tuple(pairs),
        tuple(absent),
        f"{question.claim}: {_worded(verdict, direction)}.",
        " ".join(filter(None, said)),
    )


def _pairs(scores: Scores, names: Sequence[tuple[str, str]], tasks: Sequence[str], protocol: str) -> list[Difference]:
    return [scores.difference(ahead, of, tasks, protocol) for ahead, of in names]


def _direction(pairs: Sequence[Difference]) -> Literal["for", "against", ""]:
    found = [standing(pair) for pair in pairs]
    if "not ahead" in found:
        return "against"
    return "for" if found and set(found) == {"ahead"} else ""


def _deciding_seeds(pairs: Sequence[Difference], direction: str) -> int:
    """For a claim the pair with the fewest counts; against it, the refuting pair with the most."""
    if direction == "against":
        return max(len(pair.seeds) for pair in pairs if standing(pair) == "not ahead")
    return min((len(pair.seeds) for pair in pairs), default=0)


def _worded(verdict: Verdict, direction: str) -> str:
    if verdict != "suggestive":
        return verdict
    return "suggestive" if direction == "for" else "suggestive that it does not hold"


def _measured(pairs: Sequence[Difference], tasks: Sequence[str], protocol: str) -> str:
    if not pairs:
        return ""
    counts = sorted({len(pair.seeds) for pair in pairs})
    seeds = " to ".join(str(count) for count in (counts if len(counts) < 3 else (counts[0], counts[-1])))
    over = f"the mean over {_listed(list(tasks))}" if len(tasks) > 1 else tasks[0]
    start = f"On {over} ({protocol}, {seeds} seed{'' if seeds == '1' else 's'}), "
    return start + _listed([f"{pair.name} is {figures(pair)}" for pair in pairs]) + "."


def figures(pair: Difference) -> str:
    """Mean and interval as text: "+0.012 [-0.004, +0.028]"."""
    if pair.mean is None:
        return pair.reason
    if pair.equal:
        return "exactly 0 in every seed"
    interval = "" if pair.low is None or pair.high is None else f" [{signed(pair.low)}, {signed(pair.high)}]"
    return signed(pair.mean) + interval


def signed(number: float) -> str:
    """Three decimals with a sign, without a negative 0."""
    text = f"{number:+.3f}".replace("-", "−")
    return text if text.strip("+−0.") else "0.000"


def _because(pairs: Sequence[Difference], absent: Sequence[Difference], direction: str, caps: Sequence[str]) -> str:
    if direction == "for":
        text = "The interval lies above 0" if len(pairs) == 1 else "Every interval lies above 0"
    elif direction == "against":
        text = "Against it: " + "; ".join(_refutation(pair) for pair in pairs if standing(pair) == "not ahead")
    else:
        return _open(pairs, absent)
    return f"{text}, but {'; '.join(caps)}." if caps else f"{text}."


def _open(pairs: Sequence[Difference], absent: Sequence[Difference]) -> str:
    said = [_no_result(absent)] if absent else []
    wide = [pair for pair in pairs if standing(pair) == "open"]
    if names := [pair.name for pair in wide if pair.low is not None]:
        said.append(f"For {_listed(names)} neither no gain nor one of {SMALLEST_GAIN:g} is excluded.")
    said += dict.fromkeys(f"{pair.reason[:1].upper()}{pair.reason[1:]}." for pair in wide if pair.low is None)
    return " ".join(said)


def _no_result(absent: Sequence[Difference]) -> str:
    return f"There is no result of {_listed([pair.name for pair in absent])}."


def _refutation(pair: Difference) -> str:
    if pair.equal:
        return f"{pair.ahead} and {pair.of} score the same"
    assert pair.high is not None
    if pair.high < 0:
        return f"{pair.ahead} is behind {pair.of}"
    return f"the interval of {pair.name} excludes a gain of {SMALLEST_GAIN:g}"


def _caveats(
    scores: Scores, pairs: Sequence[Difference], overlap: Mapping[str, str], tasks: Sequence[str], protocol: str
) -> list[str]:
    said = []
    for kinds in (("same-generator",), ("train", "test")):
        if not (related := [task for task in tasks if overlap.get(task) in kinds]):
            continue
        which = "all these tasks" if len(related) == len(tasks) > 1 else _listed(related)
        what = f"pre-training heard clips of {which}"
        if "same-generator" in kinds:
            what = f"{which} share{'s' if len(related) == 1 else ''} a generator with the audio of pre-training"
        said.append(f"Caveat: {what}; such scores decide nothing alone.")
    if partial := scores.marked("partial", tasks, protocol):
        said.append(f"Partial data: {_listed([f'{task} ({text} clips)' for task, text in partial.items()])}.")
    for pair in pairs:
        if left_out := [seed for seed in scores.seeds if seed not in pair.seeds]:
            word = "seed" if len(left_out) == 1 else "seeds"
            said.append(f"{pair.name} is without {word} {_listed(list(map(str, left_out)))}, where scores are missing.")
    return said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
