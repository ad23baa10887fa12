"""ImageNet's 1,000 classes as people call them: names, synonyms, and what kind of thing each is.

The order of the classes and their synsets come with timm's package (Apache-2.0), read as data; kinds come from
WordNet 3.0 (its own free licence; Debian's `wordnet-base`), whose byte offsets are ImageNet's synset numbers.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib.util import find_spec
from pathlib import Path

WORDNET = Path("/usr/share/wordnet/data.noun")
KINDS = """
animal dog cat bird fish insect snake lizard monkey bear spider frog turtle crab shark butterfly beetle fox
wolf whale duck owl rabbit squirrel sheep cow goat elephant big_cat rodent shellfish crocodile salamander
dinosaur vehicle car truck boat ship airplane train bicycle bus tank food fruit vegetable dessert bread drink
beverage plant flower mushroom tree fungus clothing shoe hat jewelry furniture chair table bed instrument
musical_instrument tool weapon gun knife machine computer phone telephone camera clock lamp container bottle
cup bowl bag box basket building house church tower bridge fence mountain shore person ball toy
sports_equipment kitchen_utensil appliance home_appliance dish screen game fabric mask hand_tool pot pan glass
keyboard stove sauce body_of_water geological_formation room shop store place_of_business barrier signal ape
feline canine reptile amphibian crustacean antelope seabird parrot terrier spaniel hound poodle retriever
poultry marsupial weasel
""".split()  # noqa: SIM905 (a hundred quotes would hide the words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """Names of each of ImageNet's classes in the order of its classifiers, and texts that name several at once."""

    wnids: list[str]
    names: list[list[str]]  # own name first, then synonyms
    kinds: dict[str, list[int]]  # "dog" -> the classes that are dogs

    def texts(self) -> list[str]:
        """Everything that a class is called."""
        return [*(name for names in self.names for name in names), *self.kinds]


def load_classes() -> Classes:
    """From timm's lists and WordNet."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The package timm is missing: pip install --no-deps -r scripts/starter/packages.txt")
    if not WORDNET.is_file():
        raise SystemExit(f"{WORDNET} is missing: apt-get install wordnet-base")
    wnids = (Path(spec.submodule_search_locations[0]) / "data/_info/imagenet_synsets.txt").read_text().split()
    names, kinds = [], {}
    for row, wnid in enumerate(wnids):
        own = _lemmas(int(wnid[1:]))
        names.append(own)
        for kind in {lemma for above in ancestors(int(wnid[1:])) for lemma in _lemmas(above)} & _wanted():
            if kind.lower() not in (name.lower() for name in own):
                kinds.setdefault(kind, []).append(row)
    return Classes(wnids=wnids, names=names, kinds=dict(sorted(kinds.items())))


@cache
def _wanted() -> frozenset[str]:
    return frozenset(kind.replace("_", " ") for kind in KINDS)


@cache
def _entry(offset: int) -> list[str]:
    with WORDNET.open("rb") as file:
        file.seek(offset)
        return file.readline().decode().split(" | ")[0].split()


def _lemmas(offset: int) -> list[str]:
    fields = _entry(offset)
    return [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]


@cache
def ancestors(offset: int) -> frozenset[int]:
    """All synsets above one, along the hypernyms of WordNet."""
    fields = _entry(offset)
    start = 4 + 2 * int(fields[3], 16) + 1
    pointers = [fields[start + 4 * i : start + 4 * i + 4] for i in range(int(fields[start - 1]))]
    parents = [int(target) for symbol, target, pos, _ in pointers if symbol in ("@", "@i") and pos == "n"]
    return frozenset(parents).union(*(ancestors(parent) for parent in parents))
