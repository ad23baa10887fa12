"""Pages of results.

Covers: sightline.lab.evaluation.comparison_report.
"""

import re

import numpy as np
import pytest

from comparison_fakes import bare, captioned, install
from evaluation_fakes import Plane, dataset, pair
from page_checks import read_page
from sightline.kit.pages import _environment
from sightline.lab.evaluation.comparison import ComparisonConfig, compare_models
from sightline.lab.evaluation.comparison_report import (
    distance,
    format_comparison,
    megabytes,
    rate,
    shorten_names,
)
from sightline.lab.evaluation.pages import Mark, Thumbnails, draw_dots, draw_histograms, draw_tradeoff
from sightline.lab.evaluation.qualitative import format_retrieval, sample_similarities
from sightline.lab.evaluation.results import Bootstrap
from sightline.lab.evaluation.retrieval import RetrievalConfig, RetrievalEvaluator

CONFIG = ComparisonConfig(rounds=1, seconds=0.001, bootstrap=Bootstrap(resamples=20))


def compare(monkeypatch, tmp_path, data, models=("fast", "slow", "blind"), **options):
    return compare_models(models, data, start=install(monkeypatch, tmp_path), config=CONFIG, **options)


def test_a_comparison_has_all_its_sections(monkeypatch, tmp_path):
    page = format_comparison(compare(monkeypatch, tmp_path, captioned(), random=["noise"]))
    images, text = read_page(page)
    for heading in ("Quality", "Speed and size", "Quality against speed", "Agreement of rankings", "Similarities"):
        assert f"<h2>{heading}" in page
    assert "noise (random weights)" in text
    assert "dominated by fast" in text
    assert "Published by others" in text
    assert "github.com/mlfoundations/open_clip" in text
    assert len(images) == 9  # three pictures above the table of each of three models
    quality = page[page.index("<h2>Quality<") : page.index("<h2>Speed")]
    assert "noise" not in quality


def test_own_images_have_no_quality_on_their_page(monkeypatch, tmp_path):
    data = bare("red", "blue", "green")
    _, text = read_page(format_comparison(compare(monkeypatch, tmp_path, data)))
    assert "Quality" not in text
    assert "Agreement, text to image" in text


def test_random_weights_alone_make_a_page(monkeypatch, tmp_path):
    comparison = compare(monkeypatch, tmp_path, bare("red"), models=(), random=["noise"])
    _, text = read_page(format_comparison(comparison))
    assert "Similarities" not in text
    assert "Speed and size" in text


def retrieval_page(data):
    evaluator = RetrievalEvaluator(RetrievalConfig(bootstrap=Bootstrap(resamples=20)))
    encoder = Plane()
    encoder.encode_images = lambda pixels: np.stack([_look(image) for image in pixels])
    embedded = evaluator.embed(encoder, data)
    return format_retrieval(data, embedded=embedded, result=evaluator.measure(encoder, data, embedded))


def _look(image):
    """Red lies at 0 degrees, blue at 90, green at 45."""
    angle = {0: 0.0, 1: 45.0, 2: 90.0}[int(image.mean(axis=(0, 1)).argmax())]
    return np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)


def test_a_retrieval_page_shows_both_directions_neighbours_and_the_space():
    data = dataset(
        pair("a.jpg", "red", "10", "20"), pair("b.jpg", "blue", "1", "100"), pair("c.jpg", "green", "40", "50")
    )
    images, text = read_page(page := retrieval_page(data))
    assert "the right image comes at 3 of 3" in text  # the text 1 lies by the red picture
    assert "its first own caption comes at 1 of 6" in text
    assert "image_retrieval_recall@1" in text
    assert "Mean cosine of images with their own texts" in text
    assert page.count("<svg") == 2
    assert len(images) > 20
    assert len(page) < 200_000


def test_captions_and_names_are_escaped():
    evil = '<script>alert("1")</script>'
    data = dataset(pair(f"{evil}.jpg", "red", "10"), pair("b.jpg", "blue", "80"), name=f"fake:{evil}")
    page = retrieval_page(data)
    read_page(page)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_one_image_makes_a_page():
    read_page(retrieval_page(dataset(pair("a.jpg", "red", "10"))))


def test_thumbnails_are_bounded_and_a_broken_image_says_why():
    class Large:
        def read(self, *, min_side_px=None):
            return np.random.default_rng(0).integers(0, 255, (900, 600, 3), np.uint8)

    from sightline.lab.data.base import Pair

    pairs = {"big": Pair(id="big", image=Large(), captions=()), "x": pair("x", "broken")}
    thumbnails = Thumbnails(pairs=pairs)
    assert len(thumbnails.well("big")) < 40_000  # of noise, the worst there is
    assert "can’t be read: truncated JPEG" in thumbnails.well("x")
    assert thumbnails.well("big") is thumbnails.well("big")


def test_tables_and_heatmaps():
    parts = _environment().get_template("lab/evaluation/parts.html").module
    assert "<td>&lt;b&gt;</td>" in parts.table(["a", "b"], [["x", "<b>"]])  # type: ignore[attr-defined]
    heat = parts.heatmap(["c"], [("r", [0.0, 0.5, 1.0, 2.0])], "%.1f", (0, 1))  # type: ignore[attr-defined]
    assert re.findall(r"--heat:([\d.]+)", heat) == ["0.00", "0.50", "1.00", "1.00"]
    assert "--heat:0.00" in parts.heatmap(["c"], [("r", [3.0])], "%.1f", (3, 3))  # type: ignore[attr-defined]


def positions(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def test_a_tradeoff_places_faster_to_the_right_and_better_higher():
    marks = [
        Mark(number=1, x=10, y=0.2, strong=True, title="a"),
        Mark(number=2, x=100, y=0.1, strong=True, title="b"),
        Mark(number=3, x=1000, y=0.05, strong=False, title="c"),
    ]
    svg = draw_tradeoff(marks, x_label="images/s", y_label="acc1")
    (x1, y1), (x2, y2), (x3, y3) = positions(svg)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)  # logarithmic
    assert y1 < y2 < y3
    assert svg.count('class="mark strong"') == 2
    assert "10%" in svg
    assert ">1,000<" in svg


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_one_model_makes_a_chart(y):
    mark = Mark(number=1, x=3.3, y=y, strong=True, title="only")
    assert len(positions(draw_tradeoff([mark], x_label="x", y_label="y"))) == 1


def test_dots_keep_distances_and_are_thinned(rng):
    svg = draw_dots(np.array([[0, 0], [1, 0]], np.float32), np.array([[0, 0.5]], np.float32))
    text, left, right = positions(svg)
    assert right[0] - left[0] == pytest.approx(2 * (left[1] - text[1]), abs=0.2)
    many = rng.normal(size=(5000, 2)).astype(np.float32)
    assert len(positions(draw_dots(many, many[:10]))) == 810
    assert len(positions(draw_dots(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)))) == 2


def test_histograms_take_any_numbers():
    one = np.zeros(3, np.float32)
    assert draw_histograms(one, one, x_label="cosine").count("<path") == 2
    svg = draw_histograms(np.float32([0.5, 0.9]), np.float32([0.1, 0.2]), x_label="cosine")  # type: ignore[arg-type]
    assert "nan" not in svg


def test_sampled_similarities_never_mix_the_two_kinds():
    image_BD = np.eye(3, dtype=np.float32)
    matched_N, other_N = sample_similarities(image_BD, image_BD[[0, 0, 1, 2]], np.array([0, 0, 1, 2]))
    assert matched_N.tolist() == [1, 1, 1, 1]
    assert other_N.tolist() == [0, 0, 0, 0]
    alone, same = sample_similarities(image_BD[:1], image_BD[:1], np.array([0]))
    assert alone.tolist() == same.tolist() == [1]


def test_labels_are_as_short_as_they_can_be():
    labels = shorten_names(["starter", "dir:/a/x/best", "dir:/a/y/best", "dir:/b/run"])
    assert list(labels.values()) == ["starter", "dir:x/best", "dir:y/best", "dir:run"]
    same = shorten_names(["dir:/1/b/c/d", "dir:/2/b/c/d"])
    assert list(same.values()) == ["dir:/1/b/c/d", "dir:/2/b/c/d"]


def test_numbers_are_short():
    assert [rate(x) for x in (4.567, 45.67, 456.7, 4567, 99.99)] == ["4.57", "45.7", "457", "4,570", "100"]
    assert [megabytes(x) for x in (None, 7_609_400, 27_050_527, 1_710_000_000)] == ["-", "7.6 MB", "27 MB", "1,710 MB"]


def test_the_distance_to_the_best_is_signed(monkeypatch, tmp_path):
    config = ComparisonConfig(rounds=1, seconds=0.001, quality="image_retrieval_recall@1")
    start = install(monkeypatch, tmp_path)
    fast, blind = compare_models(["fast", "blind"], captioned(), start=start, config=config).rows
    assert distance(fast, "acc1") == "best"
    assert distance(blind, "image_retrieval_recall@1").startswith("-")
    assert " points (" in distance(blind, "image_retrieval_recall@1")
    assert "points" not in distance(blind, "text_retrieval_mAP")
