"""Validation: the scores of a network on a fold's validation photos."""

from typing import Any

import numpy as np

from src.metrics import meteor
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.mos_score import is_measurable, mos_score
from src.metrics.word_error_rate import error_rate, word_errors
from src.pipeline import outputs
from src.settings.schema import Settings
from src.training.distributed import Ranks, replicate
from src.training.fold_data import FoldData
from src.training.infer import infer
from src.training.task import Task


class Validator:
    """Validates a task on a fold."""

    def __init__(self, task: Task, settings: Settings, data: FoldData, ranks: Ranks):
        self.task, self.settings, self.data, self.ranks = task, settings, data, ranks
        self.network = replicate(task, settings, ranks)
        self.rows = data.validation_rows.tolist()
        captioned = [bool(captions) and settings.task != "mos" for captions in data.references]
        self.captioned = [row for row, has_captions in zip(self.rows, captioned, strict=True) if has_captions]
        """Photos without a caption are not decoded: nothing would be scored."""
        if ranks.main and self.captioned:
            meteor.shared_meteor(outputs.caption_words(settings))  # starts while the first epoch is trained

    def __call__(self) -> dict[str, float]:
        """The scores by name, captions decoded without the references; the same on all processes."""
        outputs = self._outputs()
        return self.ranks.broadcast(self._scores(outputs) if self.ranks.main else None)

    def predictions(self) -> dict[int, tuple[float, str]]:
        """MOS and caption of each validation photo, by row; "" where there is no caption to compare with."""
        decode = self.data.vocabulary.decode
        return {row: (mos, decode(tokens[0]) if tokens else "") for row, (mos, *tokens) in self._outputs().items()}

    def _outputs(self) -> dict[int, tuple]:
        """What `read` or `read_mos` returns for each validation photo, by row."""
        # batch statistics differ between processes; those of rank 0 are scored and kept
        self.ranks.broadcast_tensors(self.task.buffers())
        uniforms, captioned = self.task.uniforms_per_token, set(self.captioned)
        others = [row for row in self.rows if row not in captioned]
        labels, settings, ranks = self.data.labels, self.settings, self.ranks
        outputs = infer(self.read, labels, self.captioned, settings, ranks, "validation", uniforms)
        return outputs | infer(self.read_mos, labels, others, settings, ranks, "validation of MOS")

    def read_mos(self, batch: dict[str, Any]) -> list[tuple]:
        """MOS of each photo."""
        return [(mos,) for mos in self.network(batch["images"], mode="score").float().tolist()]

    def read(self, batch: dict[str, Any]) -> list[tuple]:
        """MOS and caption of each photo; if non-autoregressive, also a reference, masked tokens filled, and it."""
        output = self.network(batch["images"], mode="decode")
        columns = [output["mos"].float().tolist(), output["tokens"].tolist()]
        if self.task.non_autoregressive:
            inputs = {name: batch[name] for name in ("captions", "uniforms")}
            filled = self.network(batch["images"], mode="fill_masked", **inputs)
            columns += [filled.tolist(), batch["captions"][:, 0].tolist()]
        return list(zip(*columns, strict=True))

    def _scores(self, outputs: dict[int, tuple]) -> dict[str, float]:
        scores: dict[str, float] = {}
        mos = self.data.labels.mos[self.rows]
        rated = ~np.isnan(mos)
        if self.settings.task != "caption" and is_measurable(mos[rated]):
            result = mos_score(np.array([outputs[row][0] for row in self.rows])[rated], mos[rated])
            scores |= {f"val_{name}": float(np.nan_to_num(value)) for name, value in result.items() if name != "score"}
            scores["val_mos_score"] = result["score"]
        if self.settings.task != "mos" and any(self.data.references):
            scores |= self._caption_scores(outputs)
        return scores

    def _caption_scores(self, outputs: dict[int, tuple]) -> dict[str, float]:
        decode = self.data.vocabulary.decode
        pairs = zip(self.rows, self.data.references, strict=True)
        references = {row: list(captions) for row, captions in pairs if captions}
        captions = [decode(outputs[row][1]) for row in references]
        totals = score_captions(list(references.values()), captions).totals()
        scores = {f"val_{name}": totals[name] for name in ("bleu4", "meteor", "rouge_l", "cider_d", "wer")}
        if self.task.non_autoregressive:
            filled = [decode(outputs[row][2]) for row in references]
            originals = [[decode(outputs[row][3])] for row in references]
            scores["val_wer_visible"] = float(error_rate(word_errors(originals, filled).sum(0)))
        scores["val_caption_score"] = caption_score(totals, self.settings.metric.weights)
        return scores
