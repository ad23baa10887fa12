"""Models of a comparison that run in this process and know colours; how fast they are is written down."""

from typing import ClassVar

from captioning_fakes import FakeEncoder, make_card
from evaluation_fakes import dataset, pair
from sightline.errors import InputError
from sightline.lab.evaluation.comparison_data import ComparisonData
from sightline.lab.evaluation.measured_model import MeasuredModel

RATES = {"fast": 900.0, "slow": 100.0, "blind": 90.0, "noise": 5000.0}


class Blind(FakeEncoder):
    """Sees everything as the same, so it finds at chance."""

    def encode_images(self, pixels_BHW3):
        vectors = super().encode_images(pixels_BHW3)
        vectors[:] = 1 / self.dim**0.5
        return vectors


class BrokenImage:
    """A picture that is refused."""

    def read(self, *, min_side_px=None):
        raise InputError("can't be read as a picture")


class FaultyImage:
    """A picture whose reading has a bug."""

    def read(self, *, min_side_px=None):
        return 1 / 0


class InProcess(MeasuredModel):
    """A model whose times are those of RATES; what is started and closed is kept."""

    started: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []
    timed: ClassVar[list[str]] = []

    def __init__(self, name, runtime):
        super().__init__(name, runtime)
        self.name = name
        self.started.append(name)

    def time_images(self, seconds):
        self.timed.append(self.name)
        return RATES[self.name]

    def time_texts(self, seconds):
        return 10 * RATES[self.name]

    def close(self):
        self.closed.append(self.name)
        super().close()


def install(monkeypatch, folder):
    """Every name is a fake model whose files lie in `folder`; the class that starts them."""
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "tokenizer.json").write_bytes(b"x" * 24)
    module = "sightline.lab.evaluation.measured_model"
    monkeypatch.setattr(f"{module}.find_card", lambda name: make_card(name=name))
    monkeypatch.setattr(f"{module}.find_local_folder", lambda card, runtime: folder)
    monkeypatch.setattr(f"{module}.load_encoder", load)
    for kept in (InProcess.started, InProcess.closed, InProcess.timed):
        kept.clear()
    return InProcess


def load(card, runtime):
    return (Blind if card.name == "blind" else FakeEncoder)(name=card.name)


def captioned():
    """Three pictures with captions and hard negatives."""
    pairs = (
        pair("a.jpg", "red", "red", "a red wall", negatives=[("red", "blue", "attribute")]),
        pair("b.jpg", "blue", "blue", negatives=[("blue", "green", "count")]),
        pair("c.jpg", "green", "green"),
    )
    return ComparisonData(dataset=dataset(*pairs), queries=("red", "blue", "green"), split="val")


def labelled():
    """Three pictures with classes, and with captions that are only their names."""
    pairs = [pair(f"{n}.jpg", colour, colour, label=n) for n, colour in enumerate(("red", "blue", "green"))]
    names = (("red",), ("blue",), ("green",))
    return ComparisonData(dataset=dataset(*pairs, class_names=names), queries=("red", "blue", "green"), split="val")


def bare(*colours):
    """Pictures without captions."""
    pairs = [pair(f"{n}.jpg", colour) for n, colour in enumerate(colours)]
    return ComparisonData(dataset=dataset(*pairs, name="pictures:own"), queries=("red", "blue"))
