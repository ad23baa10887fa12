"""Figures, checks and the page of samples, on small sets made here and on those beside our checkouts.

Covers: sightline.lab.data.facts.
"""

import io
import json
import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED_DATA
from sightline.errors import ImageError, InputError
from sightline.lab.data import checks
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset, FileImage, HardNegative, Pair
from sightline.lab.data.checks import ImageHash, check_datasets, find_near, hash_image
from sightline.lab.data.facts import choose_sample, describe_split, format_page, split_words


@dataclass(frozen=True)
class Rendered:
    """A smooth picture by seed, as data sets without files have them."""

    seed: int
    size: tuple[int, int] = (48, 64)

    def read(self, *, min_side_px=None):
        coarse = np.random.default_rng(self.seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Broken:
    def read(self, *, min_side_px=None):
        raise ImageError("truncated JPEG")


def make_dataset(pairs, split="train", **more):
    return Dataset(name="fake:x", split=split, pairs=list(pairs), fingerprint=f"of-{split}", **more)


def pair(name, image=None, *captions, **more):
    return Pair(
        id=name,
        image=image or Rendered(zlib.crc32(name.encode())),
        captions=captions or (f"a picture of {name}",),
        **more,
    )


def save(path, seed, **options):
    Image.fromarray(Rendered(seed, size=(240, 320)).read()).save(path, **options)
    return FileImage(path=path)


def found(*datasets):
    return {finding.kind: finding for finding in check_datasets(datasets).findings}


def test_figures_of_a_split():
    negatives = (HardNegative(caption="a", negative="b", kind="count"),)
    facts = describe_split(
        make_dataset(
            [
                pair("a", Rendered(1, (40, 50)), "A dog's bone.", "one, two three four"),
                pair("b", Rendered(2, (60, 90)), "a DOG", negatives=negatives),
                pair("c", Broken(), *["dog " * 70] * 3),
            ]
        )
    )
    assert (facts.pictures, facts.captions, facts.vocabulary) == (3, 6, 8)
    assert str(facts.captions_per_picture) == "1 to 3, median 2"
    assert (facts.words_per_caption.min, facts.words_per_caption.max) == (2, 70)
    assert facts.caption_lengths == {2: 1, 3: 1, 4: 1, 60: 3}
    assert (facts.sampled, facts.unreadable) == (2, {"truncated JPEG": 1})
    assert str(facts.width_px) == "50 to 90, median 70"
    assert str(facts.height_px) == "40 to 60, median 50"
    assert facts.hard_negatives == {"count": 1}
    assert facts.fingerprint == "of-train"
    assert json.loads(json.dumps(facts.to_dict()))["words_per_caption"]["max"] == 70


def test_words_are_told_from_punctuation():
    assert split_words("The dog's ball, mid-air… ÉTÉ 2 !") == ["the", "dog's", "ball", "mid", "air", "été", "2"]


def test_figures_of_a_set_with_classes_only():
    pairs = [Pair(id="a", image=Rendered(1), captions=(), label=0)]
    facts = describe_split(make_dataset(pairs, class_names=(("cat",), ("dog",))))
    assert (facts.classes, facts.captions, facts.words_per_caption) == (2, 0, None)


def test_an_empty_split_has_no_figures():
    with pytest.raises(InputError, match="no pictures in train"):
        describe_split(make_dataset([]))


def test_a_sample_is_the_same_for_the_same_seed_and_in_order():
    dataset = make_dataset(pair(str(number)) for number in range(50))
    sample = [int(one.id) for one in choose_sample(dataset, count=10, seed=3)]
    assert sample == sorted(sample) == [int(one.id) for one in choose_sample(dataset, count=10, seed=3)]
    assert sample != [int(one.id) for one in choose_sample(dataset, count=10, seed=4)]
    assert len(choose_sample(dataset, count=500)) == 50


def test_a_clean_set_has_no_findings():
    report = check_datasets([make_dataset([pair("a"), pair("b")]), make_dataset([pair("c")], "val")])
    assert (report.pictures, report.captions, report.findings, report.has_problems) == (3, 3, (), False)


def test_unreadable_images_are_named_with_their_reason(tmp_path):
    whole = save(tmp_path / "whole.jpg", 1)
    cut = FileImage(path=tmp_path / "cut.jpg")
    cut.path.write_bytes(whole.path.read_bytes()[:-500])
    absent = FileImage(path=tmp_path / "absent.jpg")
    findings = found(
        make_dataset([pair("whole", whole), pair("cut", cut), pair("absent", absent), pair("x", Broken())])
    )
    reasons = {str(case.places[0]): case.detail for case in findings["unreadable"].cases}
    assert reasons == {
        "train/cut": "truncated JPEG",
        "train/absent": "no such file",
        "train/x": "truncated JPEG",
    }
    assert findings["unreadable"].serious


def test_captions_that_are_missing_empty_or_there_twice():
    findings = found(
        make_dataset(
            [
                Pair(id="none", image=Rendered(1), captions=()),
                pair("empty", None, "a dog", " . "),
                pair("twice", None, "A cat runs.", "a  cat runs"),
                Pair(id="class", image=Rendered(2), captions=(), label=0),
            ]
        )
    )
    assert set(findings) == {"no_caption", "empty_caption", "caption_twice"}
    assert [str(case.places[0]) for case in findings["no_caption"].cases] == ["train/none"]
    assert [str(case.places[0]) for case in findings["empty_caption"].cases] == ["train/empty"]
    assert [(str(case.places[0]), case.detail) for case in findings["caption_twice"].cases] == [
        ("train/twice", "a  cat runs")
    ]
    assert not findings["caption_twice"].serious


def test_captions_of_many_images_are_worth_knowing_but_class_names_are_not():
    pairs = [pair(str(number), Rendered(number), "a photo") for number in range(3)]
    pairs += [pair(f"x{number}", Rendered(number + 10), "two of these") for number in range(2)]
    pairs += [pair(f"c{number}", Rendered(number + 20), "tench", label=0) for number in range(4)]
    report = check_datasets([make_dataset(pairs)])
    assert [(finding.kind, finding.cases[0].detail, len(finding.cases)) for finding in report.findings] == [
        ("caption_of_many", "a photo", 1)
    ]
    assert not report.has_problems


def test_the_same_file_in_two_splits_and_twice_in_one(tmp_path):
    original = save(tmp_path / "a.jpg", 1)
    (tmp_path / "b.jpg").write_bytes(original.path.read_bytes())
    copy = FileImage(path=tmp_path / "b.jpg")
    findings = found(
        make_dataset([pair("a", original), pair("r1", Rendered(5)), pair("r2", Rendered(5))]),
        make_dataset([pair("b", copy), pair("other", Rendered(6))], "val"),
    )
    assert set(findings) == {"same_in_two_splits", "same_in_split"}
    assert [str(place) for place in findings["same_in_two_splits"].cases[0].places] == ["train/a", "val/b"]
    assert [str(place) for place in findings["same_in_split"].cases[0].places] == ["train/r1", "train/r2"]
    assert findings["same_in_two_splits"].serious
    assert not findings["same_in_split"].serious


def test_an_image_saved_anew_is_a_near_duplicate_and_another_is_not(tmp_path):
    original = save(tmp_path / "a.png", 1)
    again = save(tmp_path / "a.jpg", 1, quality=50)
    smaller = tmp_path / "small.jpg"
    Image.fromarray(original.read()).resize((160, 120)).save(smaller, quality=70)
    findings = found(
        make_dataset([pair("a", original), *(pair(str(seed), Rendered(seed)) for seed in range(100, 150))]),
        make_dataset([pair("again", again), pair("other", Rendered(99))], "val"),
        make_dataset([pair("smaller", FileImage(path=smaller))], "test"),
    )
    assert set(findings) == {"near_in_two_splits"}
    assert [tuple(map(str, case.places)) for case in findings["near_in_two_splits"].cases] == [
        ("train/a", "val/again"),
        ("train/a", "test/smaller"),
        ("val/again", "test/smaller"),
    ]


def test_flat_images_of_other_colours_are_not_alike():
    def flat(*colour):
        return ImageHash(str(colour), 0, bytes(colour) * 64)

    assert find_near([flat(200, 0, 0), flat(0, 0, 200)], [flat(0, 200, 0), flat(205, 0, 0)]) == [(0, 1)]


@pytest.mark.parametrize("at_once", [7, 2_000_000])
def test_near_hashes_are_found_as_by_comparing_all(monkeypatch, at_once, rng):
    monkeypatch.setattr(checks, "_PAIRS_AT_ONCE", at_once)
    plain = bytes(192)
    numbers = [int(number) for number in rng.integers(0, 2**63, 40)]
    first = [ImageHash(f"a{row}", number, plain) for row, number in enumerate(numbers)]
    flipped = []
    for row, number in enumerate(numbers):
        for bit in rng.permutation(64)[: row % 8]:
            number ^= 1 << int(bit)
        flipped.append(ImageHash(f"b{row}", number, plain))
    expected = sorted(
        (row, other)
        for row, one in enumerate(first)
        for other, two in enumerate(flipped)
        if (one.perceptual ^ two.perceptual).bit_count() <= checks.MAX_DISTANCE
    )
    assert find_near(first, flipped) == expected
    assert len(expected) >= 25
    assert find_near(first, []) == find_near([], first) == []


def test_the_perceptual_hash_reads_cells_from_left_to_right():
    ramp = np.repeat(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], 80, axis=0).repeat(3, axis=2)

    @dataclass(frozen=True)
    class Fixed:
        rgb: object

        def read(self, *, min_side_px=None):
            return self.rgb

    assert hash_image(Fixed(ramp)).perceptual == 2**64 - 1
    assert hash_image(Fixed(ramp[:, ::-1])).perceptual == 0


def test_encoded_bytes_are_those_of_the_file(tmp_path):
    image = save(tmp_path / "a.png", 1)
    assert image.read_bytes() == image.path.read_bytes()
    with pytest.raises(ImageError, match="no such file"):
        FileImage(path=tmp_path / "none.png").read_bytes()


def test_progress_tells_every_image():
    told = []
    check_datasets([make_dataset([pair("a"), pair("b", Broken())])], on_progress=lambda *words: told.append(words))
    assert [words[:2] for words in told] == [(1, 2), (2, 2)]
    assert told[-1][2] == "1 unreadable"


EVIL = '<script>alert("x")</script>&\x1b[31m'


def make_page(tmp_path):
    image = save(tmp_path / "a.jpg", 1)
    train = make_dataset([pair(EVIL, image, EVIL), pair("same", image), pair("broken", Broken())])
    val = make_dataset([pair("copy", image)], "val")
    return format_page(
        f"folder:{EVIL}",
        [train, val],
        facts=[describe_split(train), describe_split(val)],
        report=check_datasets([train, val]),
    )


def test_the_page_escapes_everything_and_needs_nothing_beside_it(tmp_path):
    page = make_page(tmp_path)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)" in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    for outside in ("http://", "https://", "<link", "@import", "url("):
        assert outside not in page
    assert page.count("data:image/jpeg;base64,") >= 5
    assert "can’t be read: truncated JPEG" in page
    assert "pictures that are in several splits" in page


def test_a_page_says_that_nothing_was_found():
    clean = make_dataset([pair("a")])
    page = format_page("x", [clean], report=check_datasets([clean]))
    assert "Nothing was found." in page


@pytest.mark.shared
def test_real_images_saved_anew_are_found_among_others():
    dataset = load_dataset(f"flickr8k:{SHARED_DATA / 'flickr8k'}", split="val", limit=60)

    @dataclass(frozen=True)
    class SavedAnew:
        source: object

        def read(self, *, min_side_px=None):
            file = io.BytesIO()
            Image.fromarray(self.source.read()).save(file, "JPEG", quality=60)  # type: ignore[attr-defined]
            return np.array(Image.open(file).convert("RGB"))

    copies = [replace(one, id=f"copy-{one.id}", image=SavedAnew(one.image)) for one in list(dataset)[:20]]
    findings = found(replace(dataset, split="train"), replace(dataset, pairs=copies))
    pairs = [tuple(place.partition("/")[2] for place in case.places) for case in findings["near_in_two_splits"].cases]
    assert set(pairs) <= {(one.id, f"copy-{one.id}") for one in dataset}
    assert len(pairs) >= 19
