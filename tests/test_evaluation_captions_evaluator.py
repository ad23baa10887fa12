import json

import pytest

from captioning_fakes import FakeCaptioner, FakeEncoder
from evaluation_fakes import dataset, pair
from sightline.core.models.base import GenerationConfig
from sightline.errors import InputError
from sightline.lab.evaluation.captions.evaluator import (
    CaptionConfig,
    CaptionEvaluator,
    evaluate_results_file,
    generate_captions,
)
from sightline.lab.evaluation.captions.metrics import METRICS, WORD_METRICS, check_metrics, score_words
from sightline.lab.evaluation.results import Bootstrap, Problem

FIRE, SEA, GRASS = (
    pair("1.png", "red", "something red", "a fire that burns"),
    pair("2.png", "blue", "something blue"),
    pair("3.png", "green", "Something, green!", "a field"),
)
COLOURS = dataset(FIRE, SEA, GRASS)
BROKEN = pair("9.png", "broken", "something lost")
QUICK = CaptionConfig(bootstrap=Bootstrap(resamples=50))


def results(tmp_path, **captions):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": int(key[1:]), "caption": text} for key, text in captions.items()]))
    return path


def test_a_captioner_that_says_what_the_references_say_gets_full_marks():
    result = CaptionEvaluator(QUICK).run(FakeCaptioner(), COLOURS)
    assert tuple(result.metrics) == WORD_METRICS
    assert result.metrics["Bleu_2"] == pytest.approx(1)
    assert result.metrics["ROUGE_L"] == pytest.approx(1)
    assert (result.model, result.n_images, result.n_texts) == ("fake-captioner", 3, 5)
    assert result.details["generation"]["beams"] == 3


def test_figures_lie_in_their_intervals_and_the_seed_repeats_them():
    other = dataset(FIRE, SEA, GRASS, *(pair(f"{n}.png", "blue", "the wide sea") for n in range(4, 12)))
    one, two = (CaptionEvaluator(QUICK).run(FakeCaptioner(), other, encoder=FakeEncoder()) for _ in range(2))
    assert one.intervals == two.intervals
    assert set(one.intervals) == set(METRICS)
    for name, (low, high) in one.intervals.items():
        assert low <= one.metrics[name] <= high
    assert one.intervals["CIDEr"][0] < one.intervals["CIDEr"][1]


def test_an_encoder_adds_clipscore_with_the_paper_s_prompt():
    encoder = FakeEncoder()
    result = CaptionEvaluator(QUICK).run(FakeCaptioner(), COLOURS, encoder=encoder)
    assert tuple(result.metrics) == METRICS
    assert "A photo depicts something red" in encoder.texts_seen
    assert "A photo depicts a fire that burns" in encoder.texts_seen
    assert result.details["clipscore_model"] == "fake"
    right = result.metrics
    swapped = dataset(pair("1.png", "blue", "something red"), pair("2.png", "red", "something blue"))
    captioner = FakeCaptioner()
    captioner.generate = lambda pixels, config: FakeCaptioner().generate(255 - pixels, config)
    wrong = CaptionEvaluator(QUICK).run(captioner, swapped, encoder=encoder).metrics
    assert wrong["CLIPScore"] < right["CLIPScore"] / 2
    assert wrong["RefCLIPScore"] < right["RefCLIPScore"]


def test_only_the_metrics_asked_for_are_given():
    config = CaptionConfig(metrics=("CIDEr", "Bleu_4"), bootstrap=Bootstrap(resamples=10))
    result = CaptionEvaluator(config).run(FakeCaptioner(), COLOURS, encoder=FakeEncoder())
    assert set(result.metrics) == set(result.intervals) == {"CIDEr", "Bleu_4"}
    assert "clipscore_model" not in result.details


def test_clipscore_alone_needs_no_references():
    bare = dataset(pair("1.png", "red"), pair("2.png", "blue"))
    config = CaptionConfig(metrics=("CLIPScore",), bootstrap=Bootstrap(resamples=10))
    result = CaptionEvaluator(config).run(FakeCaptioner(), bare, encoder=FakeEncoder())
    assert set(result.metrics) == {"CLIPScore"}
    assert result.metrics["CLIPScore"] > 1


def test_pairs_without_captions_are_refused_by_count():
    bare = dataset(FIRE, pair("2.png", "blue"))
    with pytest.raises(InputError, match=r"1 of the 2 pictures of fake:colours have no captions .* such as 2\.png"):
        CaptionEvaluator(QUICK).run(FakeCaptioner(), bare)


def test_clipscore_without_an_encoder_is_refused():
    with pytest.raises(InputError, match="CLIPScore and RefCLIPScore compare captions with images"):
        CaptionEvaluator(CaptionConfig(metrics=("CLIPScore", "RefCLIPScore"))).run(FakeCaptioner(), COLOURS)


@pytest.mark.parametrize(("name", "why"), [("METEOR", "WordNet"), ("meteor", "WordNet"), ("SPICE", "scene graphs")])
def test_metrics_that_need_java_are_refused_with_what_to_use_instead(name, why):
    with pytest.raises(InputError, match=rf"{name} is not measured here\. .*{why}.*Use CIDEr and ROUGE_L"):
        CaptionConfig(metrics=("CIDEr", name))


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(InputError, match=r"no caption metric 'cider'; the metrics are Bleu_1, .*, RefCLIPScore"):
        check_metrics(["cider"])
    with pytest.raises(InputError, match="No caption metric was asked for"):
        check_metrics([])


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(InputError, match="batch_size"):
        CaptionConfig(batch_size=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_ragged_batches_give_the_same_captions_and_report_progress(batch_size):
    seen = []
    written = generate_captions(
        FakeCaptioner(),
        COLOURS,
        GenerationConfig(),
        batch_size=batch_size,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert written.captions == ("something red", "something blue", "something green")
    assert seen[-1] == (3, 3)
    assert len(seen) == -(-3 // batch_size)


def test_images_that_can_t_be_read_are_left_out_and_named(tmp_path):
    output = tmp_path / "out.json"
    with_broken = dataset(FIRE, BROKEN, SEA, GRASS)
    result = CaptionEvaluator(QUICK).run(FakeCaptioner(), with_broken, encoder=FakeEncoder(), output=output)
    assert result.problems == (Problem(id="9.png", reason="truncated JPEG"),)
    assert (result.n_images, result.n_texts) == (3, 5)
    assert [entry["image_id"] for entry in json.loads(output.read_text())] == [1, 2, 3]


def test_a_batch_of_broken_images_is_passed_over():
    written = generate_captions(
        FakeCaptioner(), dataset(BROKEN, pair("8.png", "broken", "x"), SEA), GenerationConfig(), batch_size=2
    )
    assert written.captions == ("something blue",)
    assert written.dataset[0].id == "2.png"


def test_nothing_to_read_is_an_error():
    with pytest.raises(InputError, match="None of the 1 pictures of fake:colours can be read: truncated JPEG"):
        CaptionEvaluator(QUICK).run(FakeCaptioner(), dataset(BROKEN))
    with pytest.raises(InputError, match="no pictures in its split val"):
        CaptionEvaluator(QUICK).run(FakeCaptioner(), dataset())


def test_captions_that_are_written_measure_the_same_from_their_file(tmp_path):
    output = tmp_path / "out.json"
    written = CaptionEvaluator(QUICK).run(FakeCaptioner(), COLOURS, encoder=FakeEncoder(), output=output)
    read = evaluate_results_file(output, COLOURS, encoder=FakeEncoder(), config=QUICK)
    assert read.metrics == written.metrics
    assert read.intervals == written.intervals
    assert read.model == str(output)


def test_an_output_that_exists_is_refused_before_any_caption(tmp_path):
    output = results(tmp_path, _1="x")
    captioner = FakeCaptioner()
    captioner.generate = None
    with pytest.raises(InputError, match="exists"):
        CaptionEvaluator(QUICK).run(captioner, COLOURS, output=output)


def test_a_results_file_is_measured_by_number(tmp_path):
    path = results(tmp_path, _3="something green", _1="something red", _2="something black")
    result = evaluate_results_file(path, COLOURS, config=QUICK)
    assert result.metrics["Bleu_1"] == pytest.approx(5 / 6)
    assert (result.n_images, result.n_texts, result.split) == (3, 5, "val")
    assert json.dumps(result.to_dict())


def test_a_broken_image_is_left_out_of_clipscore_alone(tmp_path):
    path = results(tmp_path, _1="something red", _9="something lost", _2="something blue")
    result = evaluate_results_file(path, dataset(FIRE, BROKEN, SEA), encoder=FakeEncoder(), config=QUICK)
    assert result.n_images == 3
    assert result.details["clipscore_images"] == 2
    assert result.problems == (Problem(id="9.png", reason="truncated JPEG"),)
    assert result.metrics["Bleu_2"] == pytest.approx(1)
    assert set(result.intervals) == set(METRICS)


def test_a_results_file_of_a_part_is_refused(tmp_path):
    with pytest.raises(InputError, match="no caption for 2 pictures"):
        evaluate_results_file(results(tmp_path, _1="something red"), COLOURS)


def test_one_image_can_be_measured():
    scores = score_words(["A red fire."], [["a red fire", "fire"]])
    assert scores.metrics()["Bleu_3"] == pytest.approx(1)
    assert scores.metrics()["CIDEr"] == 0
    result = CaptionEvaluator().run(FakeCaptioner(), dataset(FIRE))
    assert result.n_images == 1
    assert result.intervals == {}
