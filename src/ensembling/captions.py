"""The captions of an ensemble: candidates and labels tokenised, chosen, and every step scored exactly."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from src.data.table import for_training
from src.ensembling.ablation import ScoredStep, score_caption_step
from src.ensembling.caption_selection import SelectedCaptions, select_captions
from src.ensembling.evidence import Corpus
from src.ensembling.run_candidates import RunCandidates, load_candidates
from src.ensembling.stacking import TEST
from src.ensembling.tables import folds_of_rows
from src.metrics.caption_scores import score_captions, tokenize
from src.metrics.meteor import CachedMeteor, Meteor
from src.settings.schema import Settings


def ensemble_captions(
    settings: Settings,
    runs: Sequence[Settings],
    table: pd.DataFrame,
    number: np.ndarray,
    searched: pd.Series,
    meteor: Meteor,
    fresh: bool,
) -> tuple[SelectedCaptions, list[ScoredStep]]:
    """The captions of all photos, and what each step to them scores out of fold.

    runs: those that wrote captions. table: of all photos. number: the folds of its training photos. searched: the
    captions that the first run's own search wrote, by photo_id. fresh: have all networks propose anew.
    """
    fold = folds_of_rows(table, number)
    candidates = [load_candidates(run, table, fold, fresh) for run in runs]
    place = {name: row for row, name in enumerate(table["photo_id"])}
    raw = {place[name]: text for name, text in searched.items()}
    greedy = {row: text for texts in candidates[0].greedy.values() for row, text in texts.items() if fold[row] != TEST}
    learned = [list(group) if own else [] for group, own in zip(table["captions"], for_training(table), strict=True)]
    known = _tokens([raw.values(), greedy.values(), *learned, *(_texts(each) for each in candidates)])
    said, greedy = ({row: known[text] for row, text in texts.items()} for texts in (raw, greedy))
    references = [[known[text] for text in group if known[text]] for group in learned]
    captions = [
        dataclasses.replace(
            each,
            captions={
                number: {row: [known[text] for text in texts] for row, texts in of_fold.items()}
                for number, of_fold in each.captions.items()
            },
        )
        for each in candidates
    ]
    corpus = Corpus(references, fold, settings.metric.weights, settings.run.seed, settings.ensemble.neighbours)
    once = CachedMeteor(meteor)
    found = select_captions(corpus, captions, said, greedy, once, settings.ensemble.rewriting)
    steps = _rungs(found, references, settings, once)
    kept = {row: raw[row] if text == said[row] else text for row, text in found.chosen.items()}
    return dataclasses.replace(found, chosen=kept), steps


def _texts(each: RunCandidates) -> list[str]:
    return [text for of_fold in each.captions.values() for texts in of_fold.values() for text in texts]


def _tokens(groups) -> dict[str, str]:
    """The tokens of every text; each is tokenised once."""
    distinct = list(dict.fromkeys(text for group in groups for text in group))
    return dict(zip(distinct, tokenize([distinct])[0], strict=True))


def _rungs(
    found: SelectedCaptions, references: list[list[str]], settings: Settings, meteor: CachedMeteor
) -> list[ScoredStep]:
    """Each step scored by the competition's formula on the photos that people wrote captions of."""
    known = [place for place, row in enumerate(found.rows) if references[row]]
    people, metric = [references[found.rows[place]] for place in known], settings.metric
    steps = []
    for step, captions in found.steps if known else []:
        reached = score_captions(people, [captions[place] for place in known], meteor, tokenized=True)
        steps.append(score_caption_step(step, reached, metric.weights, metric.bootstrap, settings.run.seed))
    return steps
