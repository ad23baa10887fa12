"""`load_scenes`: scenes as a data set. Images are rendered and training captions composed only when asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from sightline.errors import InputError
from sightline.lab.data.base import Dataset, Pair, Split, check_limit, check_split, fingerprint_of
from sightline.lab.data.scenes.grammar import (
    GRAMMAR_VERSION,
    Chance,
    ObjectKind,
    Scene,
    Statement,
    draw_scene,
    iterate_kinds,
    may_be_true,
)
from sightline.lab.data.scenes.sentences import Caption, compose_captions, make_negatives

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_COUNTS: Mapping[Split, int] = {"train": 50_000, "val": 1_000, "test": 1_000}
SMALLEST_PX = 64
_MOST_REFUSALS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneImage:
    """A scene as an image, rendered when it is read."""

    seed: int
    split: Split
    number: int
    """In the stream of this seed and split; val and test leave some out."""
    size_px: int = SMALLEST_PX

    def scene(self) -> Scene:
        """The things that are to be seen, and where."""
        return draw_scene(self.seed, self.split, self.number)

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (size_px, size_px, 3) uint8, whatever `min_side_px` would allow."""
        from sightline.lab.data.scenes.render import render_scene

        return render_scene(self.scene(), self.size_px)


def load_scenes(
    seed: int = 0, *, split: str = "train", limit: int | None = None, size_px: int = SMALLEST_PX
) -> Dataset:
    """Scenes of one split, the same for a seed on every machine; a smaller `limit` gives the first of them.

    Without a limit 50,000 for training, 1,000 for val and for test; a greater limit goes on. In val and test every
    caption fits its own scene and, among as many as are loaded, no other, so that retrieval has one right answer.
    Raises InputError for another split, a size below 64 pixels, and more val or test scenes than can be told apart.
    """
    known = check_split(split)
    if seed < 0:
        raise InputError(f"The seed of scenes must be 0 or more; it is {seed}.")
    if size_px < SMALLEST_PX:
        raise InputError(f"Scenes need at least {SMALLEST_PX} pixels a side to show textures; size_px is {size_px}.")
    if limit is not None:
        check_limit(limit)
    count = DEFAULT_COUNTS[known] if limit is None else limit
    pairs = (
        TrainPairs(seed=seed, n_scenes=count, size_px=size_px)
        if known == "train"
        else _tell_apart(seed, known, count, size_px)
    )
    key = ["scenes", str(GRAMMAR_VERSION), str(seed), known, str(count), str(size_px)]
    return Dataset(name=f"scenes:{seed}", split=known, pairs=pairs, fingerprint=fingerprint_of(key))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPairs(Sequence[Pair]):
    """Training pairs, each composed anew whenever it is taken."""

    seed: int
    n_scenes: int
    size_px: int

    def __len__(self) -> int:
        return self.n_scenes

    def image_at(self, index: int) -> SceneImage:
        """The image of a pair, without composing its captions."""
        return SceneImage(seed=self.seed, split="train", number=index, size_px=self.size_px)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n_scenes))]
        if not -self.n_scenes <= index < self.n_scenes:
            raise IndexError(f"There are {self.n_scenes} scenes; {index} is none of them.")
        number = index % self.n_scenes
        image = self.image_at(number)
        scene = image.scene()
        chance = _chance_of(image)
        captions = compose_captions(scene, chance)
        assert captions is not None  # nothing is refused
        return _make_pair(number, image, scene, captions, chance)


class _Gathering:
    """Scenes with captions of which each fits its own scene alone."""

    def __init__(self) -> None:
        self.scenes: dict[ObjectKind, list[Scene]] = defaultdict(list)
        """By all that can be said of a thing in them."""
        self.statements: dict[ObjectKind, list[Statement]] = defaultdict(list)
        """By their first mention."""

    def welcomes(self, scene: Scene) -> bool:
        """True where no caption that is here could be said of this scene."""
        kinds = {kind for thing in scene.objects for kind in iterate_kinds(thing.kind)}
        return not any(may_be_true(statement, scene) for kind in kinds for statement in self.statements[kind])

    def lacks(self, statement: Statement) -> bool:
        """True where this could be said of no scene that is here."""
        rarest = min((self.scenes[mention.kind] for mention in statement.mentions), key=len)
        return not any(may_be_true(statement, scene) for scene in rarest)

    def add(self, scene: Scene, captions: Sequence[Caption]) -> None:
        for kind in {kind for thing in scene.objects for kind in iterate_kinds(thing.kind)}:
            self.scenes[kind].append(scene)
        for caption in captions:
            self.statements[caption.statement.mentions[0].kind].append(caption.statement)


def _tell_apart(seed: int, split: Split, count: int, size_px: int) -> list[Pair]:
    """The first scenes of the stream that can be told apart by every one of their captions."""
    gathering = _Gathering()
    pairs: list[Pair] = []
    number = refused = 0
    while len(pairs) < count:
        image = SceneImage(seed=seed, split=split, number=number, size_px=size_px)
        number += 1
        scene = image.scene()
        chance = _chance_of(image)
        captions = compose_captions(scene, chance, accept=gathering.lacks) if gathering.welcomes(scene) else None
        if captions is None:
            refused += 1
            if refused > _MOST_REFUSALS:
                raise InputError(
                    f"Only {len(pairs)} {split} scenes could be told apart by their captions, not {count}; "
                    "ask for fewer (--limit), or for the split train, where captions may fit several scenes."
                )
            continue
        refused = 0
        gathering.add(scene, captions)
        pairs.append(_make_pair(len(pairs), image, scene, captions, chance))
    return pairs


def _make_pair(index: int, image: SceneImage, scene: Scene, captions: Sequence[Caption], chance: Chance) -> Pair:
    return Pair(
        id=f"{image.split}-{index:06d}",
        image=image,
        captions=tuple(caption.text for caption in captions),
        negatives=tuple(make_negatives(scene, captions, chance)),
    )


def _chance_of(image: SceneImage) -> Chance:
    return Chance(image.seed, image.split, image.number, "captions")
