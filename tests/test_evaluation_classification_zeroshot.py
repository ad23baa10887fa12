import numpy as np
import pytest

from captioning_fakes import FakeEncoder
from evaluation_fakes import Plane, dataset, pair, random_units, unit
from sightline.errors import InputError
from sightline.lab.evaluation.classification import (
    ZeroshotConfig,
    ZeroshotEvaluator,
    check_template,
    default_templates,
    embed_classes,
    fill,
    known_prompts,
    load_prompts,
    rank_classes,
)
from sightline.lab.evaluation.results import Bootstrap


def test_a_class_is_the_normalised_mean_of_its_sentences():
    # templates turn the angle 1 into 10, 21 and 31: vectors of norm 1, so the mean points at their sum
    classes = embed_classes(Plane(), [("1",)], ["{}0", "2{}", "3{}"])
    total = unit(10, 21, 31).sum(axis=0)
    assert classes == pytest.approx((total / np.linalg.norm(total))[None])


def test_only_the_first_name_is_used_unless_all_are_asked_for():
    names = [("10", "50"), ("90",)]
    assert embed_classes(Plane(), names, ["{}"]) == pytest.approx(unit(10, 90))
    assert embed_classes(Plane(), names, ["{}"], names="all") == pytest.approx(unit(30, 90))


def test_hand_computed_accuracies():
    classes, images = unit(0, 30, 60, 90, 120, 150), unit(2, 31, 33, 88, 61, 0)
    metrics = rank_classes(images, classes, np.array([0, 1, 2, 3, 4, 5])).metrics()
    # right at once: pictures 0, 1, 3. Recall of classes 2, 4, 5 is 0. 0 degrees has 150 last, behind 120
    assert metrics == pytest.approx({"acc1": 0.5, "acc5": 5 / 6, "mean_per_class_recall": 0.5})


def test_mean_per_class_recall_weighs_classes_alike_and_leaves_out_those_without_images():
    classes, images = unit(0, 90, 180), unit(1, 2, 3, 91)
    metrics = rank_classes(images, classes, np.array([0, 0, 0, 0])).metrics()
    assert (metrics["acc1"], metrics["mean_per_class_recall"]) == (0.75, 0.75)
    metrics = rank_classes(images, classes, np.array([0, 0, 1, 1])).metrics()
    assert (metrics["acc1"], metrics["mean_per_class_recall"]) == (0.75, 0.75)
    metrics = rank_classes(images, classes, np.array([0, 0, 0, 2])).metrics()
    assert (metrics["acc1"], metrics["mean_per_class_recall"]) == (0.75, 0.5)


def test_classes_with_one_vector_share_the_chance():
    classes = np.tile(unit(20), (10, 1))
    metrics = rank_classes(unit(*range(50)), classes, np.arange(50) % 10).metrics()
    assert metrics == pytest.approx({"acc1": 0.1, "acc5": 0.5, "mean_per_class_recall": 0.1})


def test_acc5_needs_five_classes():
    assert "acc5" not in rank_classes(unit(0), unit(0, 30, 60, 90), np.array([0])).metrics()
    assert "acc5" in rank_classes(unit(0), unit(0, 30, 60, 90, 5), np.array([0])).metrics()


def test_intervals_hold_the_figures(rng):
    classes = random_units(rng, 6)
    labels = rng.integers(0, 6, 200)
    images = (classes[labels] + rng.normal(0, 0.5, (200, 8))).astype(np.float32)
    ranks = rank_classes(images, classes, labels)
    intervals = ranks.intervals(Bootstrap(resamples=300))
    for name, value in ranks.metrics().items():
        assert intervals[name][0] < value < intervals[name][1]


@pytest.mark.parametrize(
    ("names", "templates", "options", "message"),
    [
        ([("1",)], [], {}, "at least one prompt"),
        ([("1",), ()], ["{}"], {}, "Class 1 has no name"),
        ([("",)], ["{}"], {}, "Class 0 has no name"),
        ([("1",)], ["{}0", "{}90"], {}, r"class 0 \(1\) cancel"),
        ([("1",)], ["{}"], {"names": "some"}, "one of first, all"),
    ],
)
def test_classes_that_have_no_vector_are_refused(names, templates, options, message):
    with pytest.raises(InputError, match=message):
        embed_classes(Plane(), names, templates, **options)


LABELLED = dataset(
    pair("a", "red", label=0),
    pair("b", "blue", label=1),
    pair("c", "blue", label=0),
    pair("d", "broken", label=1),
    class_names=(("red", "tomato"), ("blue", "sea")),
)


def test_the_evaluator_measures_an_encoder():
    result = ZeroshotEvaluator(ZeroshotConfig(templates=("a {} wall", "{}"))).run(FakeEncoder(), LABELLED)
    assert result.metrics == pytest.approx({"acc1": 2 / 3, "mean_per_class_recall": 0.75})
    assert (result.n_images, result.n_texts) == (3, 4)
    assert result.details["n_classes"] == 2
    assert result.details["prompts"] == ["a {} wall", "{}"]
    assert [problem.id for problem in result.problems] == ["d"]


def test_the_evaluator_refuses_images_without_classes_and_a_wrong_prompt():
    with pytest.raises(InputError, match=r"fake:colours has no classes\. Give a folder"):
        ZeroshotEvaluator().run(FakeEncoder(), dataset(pair("a", "red", "red")))
    with pytest.raises(InputError, match="Prompt: 'a photo'"):
        ZeroshotConfig(templates=("a photo",))
    with pytest.raises(InputError, match="batch_size"):
        ZeroshotConfig(batch_size=0)


def test_every_set_that_ships_can_be_used():
    assert {"plain", "names", "photos", "thumbnails", "drawings"} <= set(known_prompts())
    for name, templates in known_prompts().items():
        assert templates
        assert len(set(templates)) == len(templates)
        for template in templates:
            check_template(template, where=name)
    assert load_prompts("photos") == default_templates()


def test_a_file_holds_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(
        "\ufeffa photo of a {}\n\n# mine\n  the {} of {{braces}}  \r\n".replace("{{", "<"), encoding="utf-8"
    )
    assert load_prompts(str(path)) == ("a photo of a {}", "the {} of <braces}}")


@pytest.mark.parametrize("line", ["a photo", "a {} and a {}", "a {name}"])
def test_a_line_without_exactly_one_hole_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "prompts.txt"
    path.write_text(f"a {{}}\n{line}\n")
    with pytest.raises(InputError, match=r"prompts.txt, line 2: .* exactly once"):
        load_prompts(str(path))


def test_an_empty_file_and_an_unknown_name_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="has no prompt"):
        load_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(
        InputError, match="'photo' is neither a file nor a set of prompts; the sets are plain, names, ph"
    ):
        load_prompts("photo")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"ein {} f\xfcr dich")
    with pytest.raises(InputError, match="can't be read as UTF-8"):
        load_prompts(str(tmp_path / "latin.txt"))


def test_braces_in_a_name_stay():
    assert fill("a {} here", "{x} {}") == "a {x} {} here"
