from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from captioning_fakes import COLOURS, FakeEncoder
from page_checks import read_page
from sightline.errors import InputError
from sightline.lab.experiments.explain import Area, Match
from sightline.lab.experiments.heatmap import (
    HeatmapImage,
    cluster_order,
    draw_heatmap,
    draw_matches,
    make_similarity_heatmap,
    short_line,
    softmax_over_texts,
    temperature_of,
    write_heatmap_page,
)

NAMES = ["red", "blue", "red", "green"]


def images(names=NAMES):
    return [
        HeatmapImage(name=f"{name}-{number}.png", rgb=np.full((20, 30, 3), COLOURS[name], np.uint8))
        for number, name in enumerate(names)
    ]


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_values_are_cosines_of_each_text_with_each_image():
    encoder = FakeEncoder()
    heatmap = make_similarity_heatmap(encoder, images(), ["red", "a dog", "red"])
    assert heatmap.kind == "cosine"
    assert heatmap.values_TB.shape == (3, 4)
    pixels = np.stack([encoder.card.preprocessing.resize(image.rgb) for image in images()])
    expected = encoder.encode_texts(["red", "a dog", "red"]) @ encoder.encode_images(pixels).T
    np.testing.assert_allclose(heatmap.values_TB, expected, atol=1e-6)
    assert heatmap.values_TB[0].argmax() in (0, 2)


def test_probabilities_are_over_the_texts_of_an_image():
    cosine = np.array([[0.30, 0.1], [0.28, 0.1]])
    share = softmax_over_texts(cosine, 100.0)
    np.testing.assert_allclose(share.sum(axis=0), 1)
    assert share[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert share[0, 1] == pytest.approx(0.5)
    heatmap = make_similarity_heatmap(FakeEncoder(temperature=50.0), images(), ["red", "blue"], probability=True)
    assert heatmap.kind == "probability"
    np.testing.assert_allclose(heatmap.values_TB.sum(axis=0), 1)


def test_huge_temperatures_do_not_overflow():
    assert np.isfinite(softmax_over_texts(np.array([[1.0], [-1.0]]), 1e6)).all()


def test_the_temperature_is_the_weights_own_where_they_tell_it():
    encoder = FakeEncoder(temperature=40.0)
    assert temperature_of(encoder) == 40
    encoder.temperature = 12.5  # type: ignore[attr-defined]
    assert temperature_of(encoder) == 12.5


def test_clusters_lie_together_and_every_row_stays():
    angles = np.radians([0, 90, 2, 180, 88, 1, 178])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    order = cluster_order(vectors)
    assert sorted(order) == list(range(7))
    groups = ["a", "b", "a", "c", "b", "a", "c"]
    blocks = "".join(groups[row] for row in order)
    assert blocks in {"aaabbcc", "ccbbaaa"}  # b lies between the others
    assert cluster_order(vectors[:1]) == [0]
    assert cluster_order(vectors[:0]) == []


def test_a_clustered_heatmap_moves_values_with_their_names():
    plain = make_similarity_heatmap(FakeEncoder(), images(), ["red", "blue", "tomato"])
    moved = make_similarity_heatmap(FakeEncoder(), images(), ["red", "blue", "tomato"], cluster=True)
    names = [image.name for image in moved.images]
    assert abs(names.index("red-0.png") - names.index("red-2.png")) == 1
    for row, text in enumerate(moved.texts):
        for column, name in enumerate(names):
            before = [image.name for image in plain.images].index(name)
            assert moved.values_TB[row, column] == plain.values_TB[plain.texts.index(text), before]


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="at least one picture and one text"):
        make_similarity_heatmap(FakeEncoder(), [], ["red"])
    with pytest.raises(InputError, match="at least one picture and one text"):
        make_similarity_heatmap(FakeEncoder(), images(), [])
    with pytest.raises(InputError, match="The probability of one text among itself is 1"):
        make_similarity_heatmap(FakeEncoder(), images(), ["red"], probability=True)


@pytest.mark.parametrize("probability", [False, True])
def test_a_drawing_grows_with_its_cells(tmp_path, probability):
    pytest.importorskip("matplotlib")
    texts = ["red", "blue"]
    small = make_similarity_heatmap(FakeEncoder(), images(["red"]), texts, probability=probability)
    large = make_similarity_heatmap(
        FakeEncoder(), images(NAMES * 2), ["red $x$", "東京", "a " * 90, *texts], probability=probability
    )
    ((first,), (second,)) = (
        [size_of(page) for page in draw_heatmap(heatmap, tmp_path / f"{name}.png")]
        for name, heatmap in (("small", small), ("large", large))
    )
    assert second[0] > 1.5 * first[0]
    assert second[1] > 1.5 * first[1]
    assert not list(tmp_path.glob(".*"))


def test_names_and_words_that_are_no_utf8_or_one_long_word_are_drawn(tmp_path, rng):
    pytest.importorskip("matplotlib")
    image = HeatmapImage(name="caf\udce9\x1b.png", rgb=np.zeros((8, 8, 3), np.uint8))
    heatmap = make_similarity_heatmap(FakeEncoder(), [image], ["red", "a" * 300])
    heatmap = replace(heatmap, model="dir:\udce9", texts=("caf\udce9", "a" * 300))
    assert draw_heatmap(heatmap, tmp_path / "h.png")[0].is_file()
    match = a_match("b\udcff", rng.random((4, 4), np.float32))
    assert draw_matches(image.rgb, [match], tmp_path / "e.png").is_file()


def test_a_line_is_cut_and_holds_only_what_can_be_drawn():
    assert short_line("a \n dog", 9) == "a dog"
    assert short_line("a" * 300, 9) == "aaaaaa..."
    assert short_line("caf\udce9\x1b", 9) == "caf\ufffd\ufffd"


def test_equal_cosines_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    heatmap = make_similarity_heatmap(FakeEncoder(), images(["red", "red"]), ["red"])
    assert draw_heatmap(heatmap, tmp_path / "a.png")[0].stat().st_size > 0


def test_many_images_fill_bands_and_then_further_files(tmp_path):
    pytest.importorskip("matplotlib")
    many = images(NAMES * 4)  # 16: bands of 14 and 2
    few = make_similarity_heatmap(FakeEncoder(), many, ["red", "blue"])
    tall = make_similarity_heatmap(FakeEncoder(), many, [f"text {number}" for number in range(16)])
    (sheet,) = draw_heatmap(few, tmp_path / "few.png")
    (band,) = draw_heatmap(few.part(0, 14), tmp_path / "band.png")
    assert size_of(sheet)[0] == size_of(band)[0]
    assert size_of(sheet)[1] > 1.6 * size_of(band)[1]
    assert [path.name for path in draw_heatmap(tall, tmp_path / "t.png")] == ["t.png", "t-2.png"]


def test_a_page_holds_texts_names_and_numbers_escaped(tmp_path):
    heatmap = make_similarity_heatmap(FakeEncoder(), images(), ["red", "<b>blue</b>"])
    text = write_heatmap_page(heatmap, tmp_path / "h.html").read_text(encoding="utf-8")
    read_page(text)
    assert "<b>blue" not in text
    assert "&lt;b&gt;blue" in text
    assert "red-0.png" in text
    assert f"{heatmap.values_TB[0, 0]:.2f}" in text


def a_match(words, heat, method="map"):
    area = Area(left=0.25, top=0, width=0.5, height=1)
    return Match(words=words, method=method, heat_HW=heat, area=area, columns=4, similarity=0.2)


@pytest.mark.parametrize("count", [1, 5])
def test_an_image_and_a_panel_for_each_words(tmp_path, count, rng):
    pytest.importorskip("matplotlib")
    rgb = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
    matches = [a_match(f"words {i} $\\frac$ 東京", rng.random((16, 16), np.float32)) for i in range(count)]
    assert size_of(draw_matches(rgb, matches, tmp_path / "e.png"))[0] > 400
    flat = [a_match("all alike", np.zeros((4, 4), np.float32), "attention")]
    assert draw_matches(rgb, flat, tmp_path / "flat.png").is_file()


def test_long_words_are_not_cut_off_at_the_top(tmp_path, rng):
    pytest.importorskip("matplotlib")
    match = a_match("a" * 300, rng.random((4, 4), np.float32))
    with Image.open(draw_matches(np.zeros((40, 60, 3), np.uint8), [match, match], tmp_path / "e.png")) as image:
        assert (np.asarray(image.convert("L"))[0] == 255).all()


def test_nothing_to_draw_and_nowhere_to_write_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    rgb = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="nothing to draw"):
        draw_matches(rgb, [], tmp_path / "e.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        draw_matches(rgb, [a_match("w", np.eye(4, dtype=np.float32))], tmp_path / "file" / "e.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'sightline-images\[train\]'"):
        draw_matches(np.zeros((8, 8, 3), np.uint8), [a_match("w", np.eye(4, dtype=np.float32))], tmp_path / "e.png")
