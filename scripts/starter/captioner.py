"""The starter captioner: a decoder over the tuned tower's cells and over the concepts that are found in them.

Its English comes from captions without pictures, whose own nouns stand in for concepts; then it learns from pictures,
then from its own sentences.

Shape suffixes: B pictures or sentences of a step, R sentences of all pictures, N pictures, K views, M cells, C cell
width, T concepts of a picture, E decoder width, L tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from beam import beam_search
from classes import Classes
from concepts import LAST_ANIMAL, Concepts, Teller, collect_concepts, learn_nouns
from corpus import Corpus
from features import N_NAMED, pool, tuned_cells
from lite_captioner import LiteCaptioner, LiteCaptionerConfig
from nouns import agreement
from numpy.typing import NDArray
from objective import Classifier
from progress import Log, Training, load_checkpoint
from self_critical import Agreement, Naming, decode_several, self_critical_loss
from torch import Tensor, nn

from sightline.core.models.inputs import Tokenizer
from sightline.core.models.lite import LiteClip
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.captions.metrics import score_words
from sightline.lab.training.batches import TokenTable, tokenize
from sightline.lab.training.towers import PAD_ID, text_spec, train_tokenizer, write_tokenizer

CONTEXT_LENGTH = 32
TOKENIZER, IMAGES = "captioner-tokenizer", "captioner.pt"
VOCABULARY = 4000
TEMPLATES = ("a {}", "a close up of a {}", "a picture of a {}")
"""What is said of pictures with a name and no caption."""
_SWAPPED = (
    "dog",
    "cat",
    "horse",
    "bird",
    "cow",
    "bear",
    "monkey",
    "elephant",
    "puppy",
    "duck",
    "goat",
    "sheep",
    "fish",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerRecipe:
    """How the starter captioner is trained; the defaults are those of the shipped weights."""

    seed: int = 0
    language_epochs: int = 2
    language_batch: int = 192
    language_rate: float = 1e-3
    epochs: int = 8
    batch: int = 32  # pictures, each with its five captions
    told_batch: int = 64  # sentences without pictures beside them
    named_batch: int = 12  # pictures with a name beside them
    rate: float = 5e-4
    smoothing: float = 0.1
    critical_epochs: int = 1
    critical_batch: int = 48
    critical_named: int = 16
    critical_rate: float = 1e-4
    samples: int = 5
    swapped: int = 6000  # sentences about an animal that are told of another
    n_checked: int = 250


class ConceptRows(nn.Module):
    """Concepts as the decoder is told them: from the tokens of a name and of what captions call it.

    So a concept that no caption brought is told in tokens that others brought.
    """

    def __init__(self, concepts: Concepts, tokenizer: Tokenizer, tokens: nn.Embedding) -> None:
        super().__init__()
        self.tokens = (tokens,)  # in a tuple: the captioner's own parameter, not this module's
        for name, ids_KW in zip(("name", "word"), concepts.ids(tokenizer), strict=True):
            self.register_buffer(name, ids_KW.clamp(min=0), persistent=False)
            there_KW1 = (ids_KW >= 0).float()[..., None]
            self.register_buffer(f"{name}_share", there_KW1 / there_KW1.sum(1, keepdim=True), persistent=False)
        width = tokens.embedding_dim
        self.of_name, self.of_word = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self) -> Tensor:
        """All of them (K, E)."""
        name_KE, word_KE = (
            (self.tokens[0](getattr(self, kind)) * getattr(self, f"{kind}_share")).sum(1) for kind in ("name", "word")
        )
        rows_KE: Tensor = self.of_name(name_KE) + self.of_word(word_KE)
        return rows_KE


class Taught(nn.Module):
    """The captioner and its concepts' rows, trained together."""

    def __init__(self, model: LiteCaptioner, rows: ConceptRows) -> None:
        super().__init__()
        self.model, self.rows = model, rows
        for still in (model.image_tower, model.nouns, model.classes, model.concepts):
            still.requires_grad_(False)

    def hear(self, concept_BT: Tensor, sure_BT: Tensor) -> Tensor:
        """Concepts without a picture -> memory (B, T, E)."""
        return self.model.hear(F.embedding(concept_BT, self.rows()), sure_BT)

    def see(self, cells_BMC: Tensor, concept_BT: Tensor, sure_BT: Tensor) -> Tensor:
        """A picture's cells and concepts -> memory (B, M + T, E)."""
        return self.model.remember(cells_BMC, F.embedding(concept_BT, self.rows()), sure_BT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Cells of pictures and the concepts that are found in them by layers that never saw them."""

    cells_NKMC: NDArray[np.float16]
    concept_NKT: Tensor
    sure_NKT: Tensor

    def draw(self, row_B: Tensor, generator: torch.Generator, *, noisy: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One view of each: cells (B, M, C), concepts and their probabilities (B, T); `noisy` spoils some concepts."""
        view_B = torch.randint(self.cells_NKMC.shape[1], row_B.shape, generator=generator)
        cells_BMC = torch.from_numpy(self.cells_NKMC[row_B.numpy(), view_B.numpy()]).float()
        concept_BT, sure_BT = self.concept_NKT[row_B, view_B], self.sure_NKT[row_B, view_B]
        if noisy:
            other_BT = torch.randint(int(self.concept_NKT.max()) + 1, concept_BT.shape, generator=generator)
            spoilt_BT = torch.rand(concept_BT.shape, generator=generator) < 0.1
            concept_BT = torch.where(spoilt_BT, other_BT, concept_BT)
        return cells_BMC, concept_BT, sure_BT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that the captioner learns from."""

    tokenizer: Tokenizer
    concepts: Concepts
    seen: Images
    captions: TokenTable  # five of each picture
    named: Images
    words: list[str]  # what captions call each named picture
    name_ids: TokenTable  # the templates of each named picture's word
    teller: Teller
    told: TokenTable
    group_of: NDArray[np.int64]  # which group of sentences each row of `told` is of
    val: NDArray[np.float16]
    coco: NDArray[np.float16]

    def tell(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sentences without pictures: their ids (B, L), concepts and probabilities (B, T)."""
        told = [self.teller.tell(int(self.group_of[row]), rng) for row in rows]
        concept_BT, sure_BT = (torch.from_numpy(np.stack(part)) for part in zip(*told, strict=True))
        return _ids(self.told, rows), concept_BT, sure_BT


def train_captioner(
    corpus: Corpus, clip: LiteClip, classes: Classes, classifier: Classifier, recipe: CaptionerRecipe, log: Log
) -> LiteCaptioner:
    """All stages; each leaves a file in the corpus's folder."""
    torch.manual_seed(recipe.seed + 2)
    told = [*corpus.told, *_swapped(corpus.told, classes, recipe)]
    concepts = collect_concepts([pair.captions for pair in corpus.train], corpus.told, classes)
    tokenizer = _tokenizer(corpus, concepts)
    config = LiteCaptionerConfig(
        size_px=clip.config.size_px, nouns=concepts.n_nouns, classes=len(classes.names),
        vocab_size=tokenizer.vocab_size, context_length=CONTEXT_LENGTH, pad_id=PAD_ID,
    )  # fmt: skip
    model = LiteCaptioner(config)
    model.image_tower.load_state_dict(clip.image_tower.state_dict())
    with torch.no_grad():
        model.classes.weight.copy_(classifier.weight_CF)
        model.classes.bias.copy_(classifier.bias_C)
    material = _prepare(model, corpus, concepts, tokenizer, told, recipe)
    log.write(stage="captioner", nouns=concepts.n_nouns, told=len(material.told.ids_CL))
    taught = Taught(model, ConceptRows(concepts, tokenizer, model.tokens))
    layers = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(_GIVEN)}
    _learn_language(taught, material, corpus.folder, recipe, log)
    _learn_images(taught, material, corpus, recipe, log)
    _learn_from_itself(taught, material, corpus, recipe, log)
    _meet_half_way(taught, corpus.folder / IMAGES)
    log.write(stage="half way", **check(taught, material, corpus, recipe.n_checked))
    model.load_state_dict(layers, strict=False)
    with torch.no_grad():
        model.concepts.weight.copy_(taught.rows()[: concepts.n_found])
    return model.eval()


_GIVEN = ("image_tower", "nouns", "classes")
"""What isn't trained with the decoder."""


def _tokenizer(corpus: Corpus, concepts: Concepts) -> Tokenizer:
    folder = corpus.folder / TOKENIZER
    if not (folder / "tokenizer.json").is_file():
        texts = [caption for pair in corpus.train for caption in pair.captions]
        texts += [sentence for group in corpus.told for sentence in group]
        texts += [f"a {word}" for word in concepts.words[: concepts.n_found] for _ in range(5)]
        write_tokenizer(train_tokenizer(texts, vocab_size=VOCABULARY), folder)
    return Tokenizer.load(folder, text_spec(CONTEXT_LENGTH))


def _swapped(told: list[list[str]], classes: Classes, recipe: CaptionerRecipe) -> list[list[str]]:
    """Sentences about an animal, told of another one that captions hardly know."""
    rng = np.random.default_rng(recipe.seed)
    animals = sorted({own[0].lower() for own in classes.names[: LAST_ANIMAL + 1] if " " not in own[0]})
    found = [
        (text, match)
        for group in told
        for text in group
        if (match := re.search(rf"\b(an?|the) ((?:\w+ )?)({'|'.join(_SWAPPED)})\b", text.lower()))
    ]
    groups = []
    for place in rng.permutation(len(found))[: recipe.swapped]:
        text, match = found[place]
        other = str(rng.choice(animals))
        before = match[2]
        article = match[1] if match[1] == "the" else "an" if (before or other)[0] in "aeiou" else "a"
        groups.append([f"{text[: match.start()]}{article} {before}{other}{text[match.end() :]}"])
    return groups


def _prepare(
    model: LiteCaptioner, corpus: Corpus, concepts: Concepts, tokenizer: Tokenizer, told: list[list[str]],
    recipe: CaptionerRecipe,
) -> Material:  # fmt: skip
    cells = functools.partial(tuned_cells, model.image_tower, corpus=corpus)
    train_NKMC = cells(corpus.train, "train", crops=2)
    pooled_NKC = torch.from_numpy(pool(train_NKMC)).float()
    layer, noun_NKN = learn_nouns(pooled_NKC, [pair.captions for pair in corpus.train], concepts)
    with torch.no_grad():
        model.nouns.load_state_dict(layer.state_dict())
    named = corpus.tiny("train", N_NAMED)
    named_NKMC = cells(named, "named")
    word_of_label = _label_words(named, concepts)
    rows = [row for row, pair in enumerate(named) if word_of_label[pair.label or 0]]
    words = [word_of_label[named[row].label or 0] for row in rows]
    named_NKMC = named_NKMC[rows]
    pooled = torch.from_numpy(pool(named_NKMC)).float()
    sentences = [tuple(template.format(word) for template in TEMPLATES) for word in words]
    with torch.no_grad():
        return Material(
            tokenizer=tokenizer, concepts=concepts,
            seen=Images(cells_NKMC=train_NKMC, **_find(model, pooled_NKC, noun_NKN)),
            captions=tokenize([pair.captions for pair in corpus.train], tokenizer),
            named=Images(cells_NKMC=named_NKMC, **_find(model, pooled, torch.sigmoid(layer(pooled)))),
            words=words, name_ids=tokenize(sentences, tokenizer),
            teller=Teller(concepts, told, n_told=2 * model.config.told),
            told=tokenize(told, tokenizer), group_of=np.repeat(np.arange(len(told)), [len(group) for group in told]),
            val=cells(corpus.val, "val"), coco=cells(corpus.coco, "coco"),
        )  # fmt: skip


def _find(model: LiteCaptioner, pooled_NKC: Tensor, noun_NKN: Tensor) -> dict[str, Tensor]:
    """The likeliest nouns and classes (N, K, T), as fields of `Pictures`."""
    return dict(zip(("concept_NKT", "sure_NKT"), model.choose_concepts(noun_NKN, pooled_NKC), strict=True))


def _label_words(named: Dataset, concepts: Concepts) -> list[str | None]:
    """What captions call each label of Tiny ImageNet; None for the few that ImageNet's classes lack."""
    word_of = dict(
        zip(concepts.names[concepts.n_nouns : concepts.n_found], concepts.words[concepts.n_nouns :], strict=False)
    )
    return [next((word_of[name.lower()] for name in own if name.lower() in word_of), None)
            for own in named.class_names or ()]  # fmt: skip


def _learn_language(taught: Taught, material: Material, folder: Path, recipe: CaptionerRecipe, log: Log) -> None:
    """Next-token training on sentences whose own nouns stand in for what is found in a picture."""
    n_steps = len(material.told.ids_CL) // recipe.language_batch
    training = Training(
        taught, folder / "captioner-language.pt", epochs=recipe.language_epochs, steps=n_steps,
        rate=recipe.language_rate, seed=recipe.seed + 3,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        rng = np.random.default_rng([recipe.seed, epoch])
        for index, rows in enumerate(_by_length(material.told, recipe.language_batch, generator)):
            ids_BL, concept_BT, sure_BT = material.tell(rows, rng)
            loss = _loss(taught.model, ids_BL, taught.hear(concept_BT, sure_BT), smoothing=0.0)
            training.descend(loss)
            if index % 100 == 0:
                log.write(stage="language", epoch=epoch, step=index, of=n_steps, loss=round(loss.item(), 3))


def _learn_images(taught: Taught, material: Material, corpus: Corpus, recipe: CaptionerRecipe, log: Log) -> None:
    """Next-token training on pictures with captions, on some with names, and on sentences without pictures."""
    n_images = len(corpus.train)
    training = Training(
        taught, corpus.folder / IMAGES, epochs=recipe.epochs, steps=n_images // recipe.batch,
        rate=recipe.rate, seed=recipe.seed + 5,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        rng = np.random.default_rng([recipe.seed + 1, epoch])
        order = torch.randperm(n_images, generator=generator)
        for row_B in order[: training.n_steps * recipe.batch].split(recipe.batch):
            memory_BME = taught.see(*material.seen.draw(row_B, generator, noisy=True))
            place, _ = material.captions.draw(row_B.numpy(), 5, rng)
            loss = _loss(taught.model, _ids(material.captions, place), memory_BME, smoothing=recipe.smoothing)
            training.descend(loss + _beside(taught, material, recipe, generator, rng))
        log.write(stage="pictures", epoch=epoch + 1, loss=round(loss.item(), 3))
        if (epoch + 1) % 4 == 0 or epoch + 1 == recipe.epochs:
            log.write(stage="pictures", epoch=epoch + 1, **check(taught, material, corpus, recipe.n_checked))


def _beside(
    taught: Taught, material: Material, recipe: CaptionerRecipe, generator: torch.Generator, rng: np.random.Generator
) -> Tensor:
    """What keeps it able to say what it is told, whatever the captioned pictures show."""
    rows = rng.integers(0, len(material.told.ids_CL), recipe.told_batch)
    ids_BL, concept_BT, sure_BT = material.tell(rows, rng)
    loss = 0.3 * _loss(taught.model, ids_BL, taught.hear(concept_BT, sure_BT), smoothing=0.0)
    row_B = torch.from_numpy(rng.integers(0, len(material.named.cells_NKMC), recipe.named_batch))
    memory_BME = taught.see(*material.named.draw(row_B, generator, noisy=False))
    place, _ = material.name_ids.draw(row_B.numpy(), 1, rng)
    return loss + 0.1 * _loss(taught.model, _ids(material.name_ids, place), memory_BME, smoothing=0.0)


def _learn_from_itself(taught: Taught, material: Material, corpus: Corpus, recipe: CaptionerRecipe, log: Log) -> None:
    """Sentences of its own that agree with people's, or name what a picture is known to show, become likelier."""
    agrees, names = (
        Agreement([pair.captions for pair in corpus.train], material.tokenizer),
        Naming(material.words, material.tokenizer),
    )
    size = recipe.critical_batch
    training = Training(
        taught, corpus.folder / "captioner-critical.pt", epochs=recipe.critical_epochs,
        steps=len(corpus.train) // size, rate=recipe.critical_rate, seed=recipe.seed + 6,
    )  # fmt: skip
    for epoch, generator in training.epochs():
        rng, rewards = np.random.default_rng([recipe.seed + 2, epoch]), []
        order = torch.randperm(len(corpus.train), generator=generator)
        for index in range(training.n_steps):
            row_B = order[index * size : (index + 1) * size]
            memory_BME = taught.see(*material.seen.draw(row_B, generator, noisy=False))
            loss, reward = self_critical_loss(
                taught.model, memory_BME, row_B.tolist(), agrees, samples=recipe.samples, generator=generator
            )
            named_B = torch.from_numpy(rng.integers(0, len(material.words), recipe.critical_named))
            memory_BME = taught.see(*material.named.draw(named_B, generator, noisy=False))
            naming, named_reward = self_critical_loss(
                taught.model, memory_BME, named_B.tolist(), names, samples=recipe.samples, generator=generator
            )
            training.descend(loss + 0.5 * naming + 0.3 * _beside(taught, material, recipe, generator, rng))
            rewards.append((reward, named_reward))
            if index % 20 == 0:
                log.write(
                    stage="critical", epoch=epoch, step=index, sampled=np.mean(rewards[-20:], 0).round(3).tolist()
                )
        log.write(stage="critical", epoch=epoch + 1, **check(taught, material, corpus, recipe.n_checked))


@torch.no_grad()
def _meet_half_way(taught: Taught, before: Path) -> None:
    """The mean of the weights before and after its own sentences, which is better than either (arXiv:2109.01903)."""
    state = load_checkpoint(before)
    if state is None:
        raise FileNotFoundError(before)
    after = taught.state_dict()
    taught.load_state_dict({
        name: value.lerp(after[name], 0.5) if value.is_floating_point() else value
        for name, value in state["module"].items()
    })  # fmt: skip


@torch.inference_mode()
def check(taught: Taught, material: Material, corpus: Corpus, n_images: int) -> dict[str, Any]:
    """Agreement of beam-3 captions with people's, on val's first pictures and on COCO's, and some captions."""
    taught.eval()
    model, figures = taught.model, dict[str, Any]()
    sets = (("val", material.val, corpus.val, n_images), ("coco", material.coco, corpus.coco, len(corpus.coco)))
    for name, cells, dataset, count in sets:
        cells_NMC = torch.from_numpy(cells[:count, 0]).float()
        memory = taught.see(cells_NMC, *model.find_concepts(cells_NMC.mean(1)))
        captions = write(model, memory, material.tokenizer)
        references = [pair.captions for pair in list(dataset)[:count]]
        figures |= {f"{name}_{metric}": value for metric, value in caption_figures(captions, references).items()}
        figures[f"{name}_captions"] = captions[:48:6]
    return figures


def write(model: LiteCaptioner, memory_NME: Tensor, tokenizer: Tokenizer) -> list[str]:
    """Captions of beam search over three."""

    def logits(ids: NDArray[np.int64], image: NDArray[np.int64]) -> NDArray[np.float32]:
        return model.decode(torch.from_numpy(ids), memory_NME[torch.from_numpy(image)])[:, -1].numpy()

    return [tokenizer.decode(ids) for ids in beam_search(logits, len(memory_NME))]


def caption_figures(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr, BLEU-4, and how many name what people name."""
    metrics = score_words(captions, references).metrics()
    figures = {name: metrics[name] for name in ("CIDEr", "Bleu_4")} | agreement(captions, references)
    return {name: round(value, 4) for name, value in figures.items()}


def _loss(model: LiteCaptioner, ids_RL: Tensor, memory_BME: Tensor, *, smoothing: float) -> Tensor:
    """Mean cross-entropy of the next token of as many sentences for each memory, in nats, padding left out."""
    logits_RLV = decode_several(model, ids_RL[:, :-1], memory_BME)
    target = ids_RL[:, 1:].flatten()
    return F.cross_entropy(logits_RLV.flatten(0, 1), target, ignore_index=PAD_ID, label_smoothing=smoothing)


def _by_length(table: TokenTable, size: int, generator: torch.Generator) -> list[NDArray[np.int64]]:
    """Whole batches in random order, each of texts of like length, so that little is spent on padding."""
    order = torch.randperm(len(table.ids_CL), generator=generator).numpy()
    pools = [
        pool[np.argsort(table.length_C[pool], kind="stable")]
        for pool in np.split(order, range(50 * size, len(order), 50 * size))
    ]
    batches = [pool[start : start + size] for pool in pools for start in range(0, len(pool) - size + 1, size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def _ids(table: TokenTable, rows: NDArray[np.int64]) -> Tensor:
    longest = int(table.length_C[rows].max())
    return torch.from_numpy(table.ids_CL[rows, :longest].astype(np.int64))
