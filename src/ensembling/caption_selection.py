"""The captions of an ensemble: for each fold by the strategy that was best on the other folds, for test photos by the
one that was best on all training photos, and by the rules for all of them; and what each step to them scores."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from src.base.machine import usable_cores
from src.base.worker_pool import thread_pool
from src.data.table import for_training
from src.ensembling.ablation import AblationStep, ScoredStep, score_caption_step
from src.ensembling.caption_rules import CaptionRules
from src.ensembling.caption_strategy import CONSTANT, SEARCH, CaptionStrategy, StrategySelection, mbr_strategies
from src.ensembling.evidence import Corpus, FoldEvidence, gather_evidence
from src.ensembling.evidence_scores import scoring_processes
from src.ensembling.mbr import RankedCandidates
from src.ensembling.regressors import TEST
from src.ensembling.run_predictions import RunCandidates
from src.metrics import meteor
from src.metrics.caption_scores import CaptionScores, tokenize
from src.metrics.constant_caption import constant_sentence, constant_sentences
from src.metrics.meteor import CachedMeteor
from src.pipeline import outputs
from src.settings.schema import CaptionWeights, Settings

NO_CAPTION = "no comment"
"""Where there is neither a caption nor any training caption."""
_TEXTS = 200_000  # that one Java process tokenises


@dataclass(frozen=True)
class SelectedCaptions:
    """The captions of training photos at `rows` and of test photos, both by row, and how they were chosen."""

    captions: dict[int, str]
    rows: list[int]
    steps: list[tuple[AblationStep, CaptionScores, float]]
    """And after each the scores of the captioned photos at `rows`, and the share of distinct captions; none without
    such photos."""
    strategy: CaptionStrategy
    """Of the test photos."""
    expected: dict[int, float]
    """How much each of `captions` is expected to add to the caption score, by row: little where nothing supports it."""


@dataclass(frozen=True)
class CaptionChoice:
    """The captions of all photos [N], and how they were chosen."""

    captions: list[str]
    record: dict
    """Of the strategy for test photos."""
    constants: dict[int, str]
    """The constant sentences that were searched for, by fold."""
    steps: list[ScoredStep] = field(default_factory=list)
    """Of the ablation."""
    expected: dict[int, float] = field(default_factory=dict)
    """As in `SelectedCaptions`; empty where there was no choice."""


def fill_empty(
    captions: Sequence[str],
    table: pd.DataFrame,
    fold: np.ndarray,
    folds: Sequence[int],
    weights: CaptionWeights,
    constants: dict[int, str],
) -> list[str]:
    """Captions [N] with a constant sentence in the place of empty ones: of the training captions outside the fold.

    table: of all photos. fold: [N], TEST for test photos. folds: those whose photos need a caption. constants: of each
    fold, where it is known; what has to be searched for is added.
    """
    filled, training = list(captions), for_training(table)
    for row in [row for row in np.flatnonzero(np.isin(fold, folds)).tolist() if not captions[row]]:
        if fold[row] not in constants:
            outside = table["captions"][training & (fold != fold[row])]
            references = [list(texts) for texts in outside if texts]
            sentence = NO_CAPTION
            if references:
                sentence = constant_sentence(references, weights).sentence
            constants[int(fold[row])] = sentence
        filled[row] = constants[int(fold[row])]
    return filled


def ensemble_captions(
    settings: Settings,
    candidates: Sequence[RunCandidates],
    table: pd.DataFrame,
    fold: np.ndarray,
    searched: Sequence[str],
    constants: dict[int, str],
    rules: CaptionRules,
    scratch: Path,
) -> tuple[SelectedCaptions, list[ScoredStep]]:
    """The captions of all photos, and what each step to them scores out of fold.

    candidates: of the runs that wrote captions. table: of all photos [N]. fold: [N], TEST for test photos. searched:
    the captions [N] by the first run's own search. constants: as for `fill_empty`. scratch: as for `gather_evidence`.
    """
    meteor.shared_meteor(outputs.caption_words(settings))  # starts while the captions are tokenised
    greedy = {row: text for texts in candidates[0].greedy.values() for row, text in texts.items() if fold[row] != TEST}
    people = [
        list(group) if training else [] for group, training in zip(table["captions"], for_training(table), strict=True)
    ]
    tokens = _tokens([searched, greedy.values(), *people, *(_captions_of(run) for run in candidates)])
    references = [[tokens[text] for text in group if tokens[text]] for group in people]
    tokenised = [
        dataclasses.replace(
            run,
            captions={
                k: {row: [tokens[text] for text in texts] for row, texts in of_fold.items()}
                for k, of_fold in run.captions.items()
            },
        )
        for run in candidates
    ]
    longest, neighbours = settings.decoding.maximum_words, settings.ensemble.neighbours
    corpus = Corpus(references, fold, settings.metric.weights, settings.run.seed, neighbours, longest)
    searched_tokens = [tokens[text] for text in searched]
    greedy = {row: tokens[text] for row, text in greedy.items()}
    selected = select_captions(corpus, tokenised, searched_tokens, greedy, constants, rules, scratch)
    metric = settings.metric
    steps = [
        score_caption_step(step, scores, distinct, metric.weights, metric.bootstrap, settings.run.seed)
        for step, scores, distinct in selected.steps
    ]
    # what the search wrote stays as it wrote it, with its case and punctuation
    kept = {row: searched[row] if text == searched_tokens[row] else text for row, text in selected.captions.items()}
    return dataclasses.replace(selected, captions=kept), steps


def _captions_of(run: RunCandidates) -> list[str]:
    return [text for of_fold in run.captions.values() for texts in of_fold.values() for text in texts]


def _tokens(groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """The tokens of every text; each is tokenised once, and what does not change by it is kept once."""
    distinct = list(dict.fromkeys(text for group in groups for text in group if text))
    blocks = [distinct[begin : begin + _TEXTS] for begin in range(0, len(distinct), _TEXTS)]
    tokens = {"": ""}
    with thread_pool(usable_cores()) as pool:
        bar = tqdm(total=len(distinct), desc="tokens", unit=" captions", leave=False, disable=None)
        for block, tokenised in zip(blocks, pool.map(lambda block: tokenize([block])[0], blocks), strict=True):
            tokens |= {text: text if text == joined else joined for text, joined in zip(block, tokenised, strict=True)}
            bar.update(len(block))
        bar.close()
    return tokens


def select_captions(
    corpus: Corpus,
    runs: Sequence[RunCandidates],
    searched: Sequence[str],
    greedy: dict[int, str],
    constants: dict[int, str],
    rules: CaptionRules,
    scratch: Path,
) -> SelectedCaptions:
    """The captions of all training photos that were left out once, and of the readable test photos, tokenised.

    runs: their captions tokenised; the first one's search is where the steps begin. searched [N], greedy: its captions
    by row, tokenised. constants: as for `fill_empty`. scratch: as for `gather_evidence`.
    """
    folds = sorted(runs[0].captions)
    tested = any(run.saw(TEST, row) for run in runs for row in np.flatnonzero(corpus.fold == TEST).tolist())
    with_test = [*folds, *([TEST] * tested)]
    unknown = [fold for fold in with_test if fold not in constants]
    references = [[corpus.references[row] for row in corpus.training_rows(fold)] for fold in unknown]
    cached = CachedMeteor()
    searched_for = constant_sentences(references, corpus.weights, tokenized=True, meteor=cached)
    constants.update({fold: constant.sentence for fold, constant in zip(unknown, searched_for, strict=True)})
    with scoring_processes(len(corpus.fold)) as scoring:
        gathered = {
            fold: gather_evidence(corpus, runs, fold, constants[fold], scratch, scoring)
            for fold in tqdm(with_test, desc="captions", unit="fold", leave=False, disable=None)
        }
    evidence = [gathered[fold] for fold in folds]
    selection = StrategySelection(corpus, [group.rows for group in evidence], cached)
    by_fold = zip(folds, evidence, strict=True)
    selection.add(CONSTANT, [[constants[fold]] * len(group.rows) for fold, group in by_fold])
    selection.add(SEARCH, [[searched[row] for row in group.rows] for group in evidence])
    nested = [[SEARCH, CONSTANT]]  # the very first where there are too few photos to judge
    by_mbr = [each for more in mbr_strategies(len(runs)) for each in more]
    with thread_pool(usable_cores()) as pool:
        selected_by_mbr = pool.map(lambda strategy: [_by_mbr(group, strategy) for group in evidence], by_mbr)
        bar = tqdm(by_mbr, desc="strategies", unit=" strategies", leave=False, disable=None)
        for strategy, captions in zip(bar, selected_by_mbr, strict=True):
            selection.add(strategy, captions)
    nested += [[*nested[0], *more] for more in accumulate(mbr_strategies(len(runs)))]
    strategy, of_photos = selection.select(nested)
    chosen_captions = selection.captions_by(of_photos)
    steps = _steps(selection, runs, strategy, [greedy.get(row, searched[row]) for row in selection.rows])
    steps.append((AblationStep("chosen on the other folds", True), chosen_captions))
    ruled, values = _ruled(rules, evidence, chosen_captions, of_photos, selection.best_of_photos(by_mbr))
    steps += [(AblationStep(name, True), texts) for name, texts in ruled]
    selected = dict(zip(selection.rows, steps[-1][1], strict=True))
    expected = dict(zip(selection.rows, values, strict=True))
    if tested:
        test = gathered[TEST]
        captions_of_test, count = _of_test(test, strategy, searched, constants), len(test.rows)
        ruled, values = _ruled(rules, [test], captions_of_test, [strategy] * count, [selection.best(by_mbr)] * count)
        selected |= dict(zip(test.rows, ruled[-1][1] if ruled else captions_of_test, strict=True))
        expected |= dict(zip(test.rows, values, strict=True))
    scored = [
        (step, selection.scored(texts), len(set(texts)) / len(texts)) for step, texts in steps if selection.references
    ]
    return SelectedCaptions(selected, selection.rows, scored, strategy, expected)


def _ruled(
    rules: CaptionRules,
    evidence: Sequence[FoldEvidence],
    captions: Sequence[str],
    strategies: Sequence[CaptionStrategy],
    by_mbr: Sequence[CaptionStrategy],
) -> tuple[list[tuple[str, list[str]]], list[float]]:
    """What each rule is called, and the captions after it, of the photos of all groups in a row; and the values of the
    last ones.

    captions, strategies: of each photo; where the strategy is not MBR, that in by_mbr ranks the other candidates.
    """
    ranking = [strategy if strategy.mixture else other for strategy, other in zip(strategies, by_mbr, strict=True)]
    ranked: list[RankedCandidates] = []
    for group in evidence:
        begin = len(ranked)
        of_group = ranking[begin : begin + len(group.rows)]
        ranks = {
            strategy: group.rank(strategy.mixture, strategy.runs, strategy.own_candidates_only)
            for strategy in set(of_group)
            if strategy.mixture
        }
        ranked += [
            ranks[strategy][place].starting_with(captions[begin + place]) for place, strategy in enumerate(of_group)
        ]
    steps = rules.apply(ranked, [group.rare_endings for group in evidence for _ in group.rows])
    last = steps[-1][1] if steps else captions
    return steps, [photo.value_of(caption) for photo, caption in zip(ranked, last, strict=True)]


def _steps(
    selection: StrategySelection, runs: Sequence[RunCandidates], used: CaptionStrategy, greedy: list[str]
) -> list[tuple[AblationStep, list[str]]]:
    """What leads to the strategy of the test photos, and the captions of all that were left out after each step."""
    alone, every, *_ = mbr_strategies(len(runs))
    mbr, name = used.mixture is not None, runs[0].name

    def best(strategies: Sequence[CaptionStrategy]) -> list[str]:
        return selection.captions_by(selection.best_of_photos(strategies))

    constant = AblationStep("the constant sentence of the other folds", used == CONSTANT, side_branch=True)
    steps = [
        (constant, selection.captions[CONSTANT]),
        (AblationStep(f"{name}, greedy", False), greedy),
        (AblationStep(f"{name}, its search", used == SEARCH), selection.captions[SEARCH]),
        (AblationStep("MBR among its own candidates", mbr), best(alone)),
        (AblationStep("+ neighbours' captions", mbr and not used.own_candidates_only), best([*alone, *every])),
    ]
    if len(runs) > 1:
        strategies = [strategy for strategies in mbr_strategies(len(runs)) for strategy in strategies]
        steps.append((AblationStep("+ the other runs", used.runs > 1), best(strategies)))
    return steps


def _by_mbr(evidence: FoldEvidence, strategy: CaptionStrategy) -> list[str]:
    assert strategy.mixture
    return evidence.select(strategy.mixture, strategy.runs, strategy.own_candidates_only)


def _of_test(
    evidence: FoldEvidence, strategy: CaptionStrategy, searched: Sequence[str], constants: dict[int, str]
) -> list[str]:
    """The test photos' captions."""
    if strategy == CONSTANT:
        return [constants[TEST]] * len(evidence.rows)
    if strategy == SEARCH:
        return [searched[row] for row in evidence.rows]
    return _by_mbr(evidence, strategy)
