"""The two folders between the stages: the teacher as a CLIP that any run can name, and the student's start.

Shape suffixes: B images, H W cells, F features, D joint space, T texts, L tokens.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from corpus import CONTEXT_LENGTH, Corpus
from pixels import MEAN, STD
from torch import Tensor, nn
from tuning import TEACHER_PX, Tuned
from words import Matcher

from sightline.images.preprocess import Preprocessing
from sightline.models.base import ModelCard
from sightline.models.convolutional import ConvClip
from sightline.models.graph_export import BATCH, complete_or_absent, export_graph, finish_folder
from sightline.models.hashes import compute_hash
from sightline.models.torch_encoder import ConvTowers
from sightline.training.towers import TrainedModel, write_settings, write_weights
from sightline.training.vocabulary import text_spec

LICENCE = (
    "Not MIT: weights trained on Flickr8k, Tiny ImageNet and Flickr30k's captions; "
    "for non-commercial research and education. See the LICENSE beside this folder."
)


class _TeacherImage(nn.Module):
    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self.tuned = tuned

    def forward(self, image_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        return self.tuned.encode_images(image_B3SS)


class _TeacherText(nn.Module):
    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.tower, self.projection = matcher.text_tower, matcher.text_projection

    def forward(self, ids_TL: Tensor) -> Tensor:
        text_TD = self.projection(self.tower(ids_TL))
        return text_TD / torch.linalg.vector_norm(text_TD, dim=-1, keepdim=True)


def write_teacher(tuned: Tuned, corpus: Corpus) -> Path:
    """Trunk, map and text tower as graphs with a card: `dir:FOLDER` is a CLIP like any other."""
    folder, matcher = corpus.folder / "teacher", tuned.matcher
    tuned.eval()
    card = dataclasses.replace(
        _card(corpus, matcher, size_px=TEACHER_PX),
        name="starter-teacher",
        weights_hash=compute_hash(corpus.folder / "tuned.pt"),
    )
    with complete_or_absent(folder) as partial:
        pixels, ids = torch.zeros(2, 3, TEACHER_PX, TEACHER_PX), torch.zeros(2, 7, dtype=torch.int64)
        names = (("pixel_values",), ("image_embeds", "feature_map"))
        export_graph(
            _TeacherImage(tuned), (pixels,), partial / "onnx" / "image.onnx", names=names, dynamic=({0: BATCH},)
        )
        length = torch.export.Dim("length", min=2, max=CONTEXT_LENGTH)
        names = (("input_ids",), ("text_embeds",))
        shapes = ({0: BATCH, 1: length},)
        export_graph(_TeacherText(matcher), (ids,), partial / "onnx" / "text.onnx", names=names, dynamic=shapes)
        finish_folder(card, corpus.tokenizer_folder, partial)
    return folder


def write_start(matcher: Matcher, clip: ConvClip, corpus: Corpus) -> Path:
    """The student before it has seen a picture: the words are the teacher's, the image tower is random."""
    folder = corpus.folder / "start"
    with torch.no_grad():
        clip.logit_scale.copy_(matcher.logit_scale)
    card = _card(corpus, matcher, size_px=clip.config.size_px)
    towers = ConvTowers(clip, dim=clip.config.dim)
    trained = TrainedModel(
        towers=towers, card=card, tokenizer=corpus.tokenizer, tokenizer_folder=corpus.tokenizer_folder
    )
    write_settings(trained, folder, figures={})
    write_weights(clip, folder / "model.safetensors")
    return folder


def _card(corpus: Corpus, matcher: Matcher, *, size_px: int) -> ModelCard:
    return ModelCard(
        name="starter",
        kind="encoder",
        family="sightline-clip",
        source="scripts/starter",
        preprocessing=Preprocessing(size_px=size_px, resize_mode="squash", mean=MEAN, std=STD),
        text=text_spec(CONTEXT_LENGTH),
        dim=matcher.map.out_features,
        licence=LICENCE,
        temperature=math.exp(float(matcher.logit_scale.detach())),
    )
