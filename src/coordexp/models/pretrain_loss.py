"""What pretraining minimizes: token cross-entropies, a soft distribution over coordinate bins with its expectation, and a throw-away detection head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.serialize import serialize_objects, with_end
from coordexp.data.synthetic import Sample
from coordexp.geometry.bins import MAX_BIN, NUM_BINS

SIGMA_BINS: Final = 4.0
EXPECTATION_WEIGHT: Final = 10.0
GATE_WEIGHT: Final = 4.0
BORDER_WEIGHT: Final = 4.0
"""Of the tokens that decide whether another object follows: one in thirteen, but they make the recall."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Responses of equal length, and what each token is."""

    ids: Tensor
    """[B, R]"""
    is_coord: Tensor
    is_desc: Tensor
    structure_weight: Tensor
    """[B, R] float; 0 at coordinates and descs."""


class TargetBuilder:
    """Objects to response ids through the product's own serializer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, coord_vocab: CoordVocabulary) -> None:
        self._tokenizer = tokenizer
        self._coord_vocab = coord_vocab
        self._open, self._middle, self._next, self._close = (self._one(text) for text in ('": {"desc": "', '", "bbox_2d": ["', ', "object_', "}"))

    def _one(self, text: str) -> int:
        ids = self._tokenizer(text)["input_ids"]
        assert len(ids) == 1, (text, ids)
        return ids[0]

    def build(self, samples: list[Sample]) -> Targets:
        """All samples have responses of one length."""
        texts = [with_end(serialize_objects(sample.objects)).text for sample in samples]
        ids = torch.tensor(self._tokenizer(texts)["input_ids"])
        is_coord = torch.from_numpy(np.isin(ids.numpy(), self._coord_vocab.ids))
        opened = (ids == self._open).long().cumsum(1) - (ids == self._open).long()
        closed = (ids == self._middle).long().cumsum(1)
        is_desc = opened > closed
        weight = torch.where((ids == self._next) | (ids == self._close), BORDER_WEIGHT, 1.0)
        # '{' and '"object_' begin every response alike: nothing is learned there, but they must not be forgotten
        return Targets(ids, is_coord, is_desc, torch.where(is_coord | is_desc, 0.0, weight))


class ResponseLoss:
    """softCE over bins (sigma 4, within the whole vocabulary) + 4·gate + CE desc + CE structure + 10·E|k − t|/999.

    The gate, −log of the mass on all bins, keeps a coordinate's place from going to a text token while the mass is still spread over many bins.
    """

    def __init__(self, coord_vocab: CoordVocabulary) -> None:
        self._ids = torch.tensor(coord_vocab.ids)
        self._bin_of = torch.full((int(self._ids.max()) + 1,), -1)
        self._bin_of[self._ids] = torch.arange(NUM_BINS)
        bins = torch.arange(NUM_BINS, dtype=torch.float32)
        distance = bins[:, None] - bins[None, :]
        self._soft = torch.softmax(-0.5 * (distance / SIGMA_BINS) ** 2, dim=1)
        """[target bin, bin]"""
        self._distance = distance.abs() / MAX_BIN

    def __call__(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Logits [B, R, V] to the named terms, each a mean over its own tokens."""
        terms: dict[str, Tensor] = {}
        text = ~targets.is_coord
        token_loss = F.cross_entropy(logits[text], targets.ids[text], reduction="none")
        weight, is_desc = targets.structure_weight[text], targets.is_desc[text].float()
        terms["structure"] = (token_loss * weight).sum() / weight.sum()
        if not bool(targets.is_coord.any()):
            return terms
        terms["desc"] = (token_loss * is_desc).sum() / is_desc.sum()
        log_probs = F.log_softmax(logits[targets.is_coord], dim=-1)[:, self._ids]
        goal = self._bin_of[targets.ids[targets.is_coord]]
        terms["soft"] = -(self._soft[goal] * log_probs).sum(-1).mean()
        terms["gate"] = -GATE_WEIGHT * log_probs.logsumexp(-1).mean()
        terms["expected"] = EXPECTATION_WEIGHT * (log_probs.exp() * self._distance[goal]).sum(-1).mean()
        return terms


class CellHead(nn.Module):
    """Throw-away detection head on merged image features: each 16 x 16 cell says which object it belongs to and where that lies."""

    def __init__(self, hidden: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self._class_of = {name: number for number, name in enumerate(names, start=1)}
        self.linear = nn.Linear(hidden, 1 + len(names) + 4)

    def loss(self, features: Tensor, samples: list[Sample]) -> Tensor:
        """Features [B, M, H], M = side² cells in row order."""
        side = round(features.shape[1] ** 0.5)
        labels, boxes = self._assign(samples, side)
        output = self.linear(features)
        is_object = labels > 0
        # nine in ten cells of a sparse scene are empty: half weight for them
        weight = torch.where(is_object, 1.0, 0.5)
        classes = F.cross_entropy(output[..., :-4].flatten(0, 1), labels.flatten(), reduction="none")
        loss = (classes * weight.flatten()).sum() / weight.sum()
        if bool(is_object.any()):
            loss = loss + 5.0 * F.l1_loss(output[..., -4:][is_object], boxes[is_object])
        return loss

    def _assign(self, samples: list[Sample], side: int) -> tuple[Tensor, Tensor]:
        """A cell belongs to the object that covers most of it, if that is a quarter of the cell or of the object."""
        labels = np.zeros((len(samples), side * side), dtype=np.int64)
        boxes = np.zeros((len(samples), side * side, 4), dtype=np.float32)
        edges = np.arange(side) / side
        for row, sample in enumerate(samples):
            best = np.zeros((side, side))
            for item in sample.objects:
                x1, y1, x2, y2 = (value / MAX_BIN for value in item.points)
                wide = np.clip(np.minimum(x2, edges + 1 / side) - np.maximum(x1, edges), 0, None)
                high = np.clip(np.minimum(y2, edges + 1 / side) - np.maximum(y1, edges), 0, None)
                common = high[:, None] * wide[None, :]
                share = common / min(1 / side**2, max((x2 - x1) * (y2 - y1), 1e-6))
                chosen = ((share > 0.25) & (share > best)).ravel()
                best = np.where(chosen.reshape(side, side), share, best)
                labels[row, chosen] = self._class_of[item.desc]
                boxes[row, chosen] = (x1, y1, x2, y2)
        return torch.from_numpy(labels), torch.from_numpy(boxes)
