"""The judge, feedback, prompts, the folder and the sheet, on pictures whose similarities are known beforehand.

Covers: sightline.lab.generate.run.
"""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from PIL import Image

from generate_world import COLOURS, ColourEncoder, made_image
from page_checks import read_page
from sightline.errors import InputError, ModelError
from sightline.lab.generate.config import check_prompts, load_bank, load_prompts
from sightline.lab.generate.judge import check_judge, explain_words, give_feedback, judge_images, wilson_interval
from sightline.lab.generate.run import claim_folder, format_sheet, name_images, write_images, write_settings

RED, GREEN, BLUE = (f"a {name} circle" for name in COLOURS)


def test_the_judge_counts_images_whose_prompt_fits_best():
    made_images = [
        made_image(RED, (255, 0, 0)),
        made_image(GREEN, (0, 0, 255)),
        made_image(BLUE, (0, 10, 255), seed=0, similarity=0.9),
        made_image(BLUE, (255, 0, 0), seed=1, similarity=0.2),
    ]
    judgement = judge_images(made_images, ColourEncoder("other"), prompts=[RED, GREEN, BLUE])
    assert (judgement.n_right, judgement.n_prompts, judgement.judge) == (2, 3, "other")
    assert judgement.rate == pytest.approx(2 / 3)
    assert judgement.chance == pytest.approx(1 / 3)
    wrong = judgement.verdicts[1]
    assert (wrong.taken_for, wrong.right) == (BLUE, False)
    assert judgement.verdicts[2].seed == 0  # the one that its maker finds best
    assert judgement.to_dict()["right"] == 2


def test_a_tie_is_not_counted_as_right():
    judgement = judge_images([made_image(RED, (255, 255, 0))], ColourEncoder(), prompts=[RED, GREEN])
    assert judgement.verdicts[0].rank == pytest.approx(1.5)
    assert judgement.n_right == 0


def test_prompts_without_images_are_candidates_all_the_same():
    judgement = judge_images([made_image(RED, (255, 0, 0))], ColourEncoder(), prompts=[RED, GREEN, BLUE])
    assert (judgement.n_right, judgement.n_prompts, len(judgement.verdicts)) == (1, 3, 1)


@pytest.mark.parametrize(
    ("right", "n", "ends"), [(10, 20, (0.2993, 0.7007)), (0, 10, (0.0, 0.2775)), (50, 50, (0.9287, 1.0))]
)
def test_the_interval_is_wilsons(right, n, ends):
    assert wilson_interval(right, n) == pytest.approx(ends, abs=1e-4)


def test_a_judge_must_be_another_model_and_have_a_choice():
    with pytest.raises(InputError, match="has the weights of a model that makes the pictures"):
        check_judge(ColourEncoder("one"), [ColourEncoder("one")], [RED, GREEN])
    with pytest.raises(InputError, match="give at least two"):
        check_judge(ColourEncoder("one"), [ColourEncoder("two")], [RED, RED])
    check_judge(ColourEncoder("one"), [ColourEncoder("two")], [RED, GREEN])


def test_vectors_that_are_not_finite_are_the_judges_fault():
    judge = ColourEncoder()
    judge.encode_images = lambda pixels: np.full((len(pixels), 4), np.nan, np.float32)
    with pytest.raises(ModelError, match="colours gives vectors that aren't finite"):
        judge_images([made_image(RED, (255, 0, 0))], judge, prompts=[RED, GREEN])


def test_words_that_are_not_in_the_image_come_first():
    encoder = ColourEncoder()
    made_images = [made_image("a red and blue thing", (255, 0, 0), seed=seed) for seed in range(2)]
    image_SD = encoder.encode_images(np.stack([each.rgb for each in made_images]))
    words = explain_words(image_SD, encoder, "a red and blue thing")
    assert [share.word for share in words] == ["blue", "thing", "red"]
    vectors = encoder.encode_texts(["red blue", "red"])
    expected = float(image_SD[0] @ (vectors[0] - vectors[1]))
    assert words[0].gain == pytest.approx(expected, abs=1e-6)
    assert (words[0].helped, words[2].helped) == (0, 2)
    assert explain_words(image_SD, encoder, "red") == []


def test_feedback_names_what_is_missing_and_which_seed_is_best():
    made_images = [
        made_image("a red and blue circle", (255, 0, 0), seed=0),
        made_image("a red and blue circle", (255, 0, 60), seed=1),
    ]
    feedback = give_feedback(made_images, ColourEncoder(), bank=[RED, GREEN, "a red and blue circle"], n_cut=3)
    lines = "\n".join(feedback.lines)
    assert "last 3 tokens" in lines
    assert "Matched least: 'blue'" in lines
    assert "Seed 1 fits best" in lines
    assert (feedback.bank_rank, feedback.bank_size) == (2, 3)
    assert "1 of 2 other texts fit the best picture better" in lines


def test_feedback_on_a_fitting_image_finds_nothing_missing():
    feedback = give_feedback([made_image(RED, (255, 0, 0))], ColourEncoder(), bank=[GREEN, BLUE])
    assert feedback.bank_rank == 1
    assert "better than any of 2 other texts" in feedback.lines[0]
    assert not any("fits best" in line for line in feedback.lines)  # of a single sample


@pytest.mark.parametrize(
    ("greens", "verdict"),
    [
        ((250, 252, 254, 251), "keep the first wording"),
        ((0, 0, 0, 0), "no difference beyond the noise"),
        ((250, 252), "too few seeds"),
    ],
)
def test_variants_are_compared_at_equal_seeds(greens, verdict):
    base = [made_image(RED, (255, 0, 0), seed=seed) for seed in range(4)]
    variant = [made_image("something red", (255, green, 0), seed=seed) for seed, green in enumerate(greens)]
    feedback = give_feedback(base, ColourEncoder(), bank=[GREEN], variants=[variant])
    (result,) = feedback.variants
    assert result.of == len(greens)
    assert verdict in feedback.lines[-1]
    assert json.loads(json.dumps(feedback.to_dict()))["variants"][0]["of"] == len(greens)


def test_a_better_variant_is_recommended():
    base = [made_image(RED, (255, 200 + seed, 0), seed=seed) for seed in range(4)]
    variant = [made_image("something red", (255, seed, 0), seed=seed) for seed in range(4)]
    (result,) = give_feedback(base, ColourEncoder(), bank=[GREEN], variants=[variant]).variants
    encoder = ColourEncoder()
    text = encoder.encode_texts([RED])[0]
    first, other = (encoder.encode_images(np.stack([p.rgb for p in some])) @ text for some in (base, variant))
    difference = other - first
    error = 3.182 * difference.std(ddof=1) / 2
    assert result.difference == pytest.approx(difference.mean(), abs=1e-6)
    assert result.interval == pytest.approx((difference.mean() - error, difference.mean() + error), abs=1e-6)
    assert result.better == 4


def test_prompts_come_from_a_file_or_from_scenes(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa red circle\n\n  two squares \n", encoding="utf-8")
    assert load_prompts(str(path)) == ["a red circle", "two squares"]
    scenes = load_prompts("scenes:5")
    assert len(set(scenes)) == 5
    assert load_prompts("scenes:3") == scenes[:3]


def test_prompts_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError, match="there is no prompt"):
        load_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(InputError, match="can't be read"):
        load_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="at most 1,000"):
        check_prompts(["x" * 1001])
    with pytest.raises(InputError, match="a prompt is empty"):
        check_prompts([" "])


def test_the_bank_is_what_the_model_was_trained_on_or_of_the_package(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"data": "scenes:0"}))
    texts, source = load_bank(None, [f"dir:{tmp_path}"], limit=7)
    assert len(texts) == 7
    assert "scenes:0, which" in source
    (tmp_path / "run.json").write_text(json.dumps({"data": "coco:/not/there"}))
    texts, source = load_bank(None, [f"dir:{tmp_path}"], limit=9)
    assert (len(texts), source) == (9, "the package's bank of captions of photos")
    assert load_bank(None, ["starter"], limit=9)[0] == texts
    own = tmp_path / "own.txt"
    own.write_text("one\ntwo\nthree\n")
    assert load_bank(str(own), ["starter"], limit=2) == (["one", "two"], str(own))
    with pytest.raises(InputError):
        load_bank("nothing:here", ["starter"], limit=2)


def test_images_gifs_and_frames_are_written(tmp_path):
    frames = tuple(np.full((8, 8, 3), shade, np.uint8) for shade in (0, 100, 255))
    entries = write_images(tmp_path, [made_image(RED, (255, 0, 0), frames=frames), made_image(BLUE, (0, 0, 255))])
    assert entries[0]["file"] == "001-a-red-circle-seed0.png"
    with Image.open(tmp_path / entries[0]["file"]) as image:
        assert np.array_equal(np.asarray(image), made_image(RED, (255, 0, 0)).rgb)
    with Image.open(tmp_path / entries[0]["gif"]) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (3, (256, 256), 0)  # type: ignore[attr-defined]
    assert all((tmp_path / name).is_file() for name in entries[0]["frames"])
    assert "gif" not in entries[1]
    assert not list(tmp_path.rglob("*.partial"))


def test_words_that_are_no_utf8_are_kept_as_json_escapes(tmp_path):
    write_settings(tmp_path, {"prompts": ["caf\udce9 東京"]})
    raw = (tmp_path / "generate.json").read_bytes()
    assert json.loads(raw) == {"prompts": ["caf\udce9 東京"]}
    assert "東京".encode() in raw


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fill(path, text, **options):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(InputError, match=r"generate\.json can't be written: No space left"):
        write_settings(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_names_of_files_are_tame_whatever_the_prompt():
    names = name_images([made_image(prompt, (0, 0, 0)) for prompt in ("../../etc/passwd", "日本", "x" * 900)])
    assert names == ["001-etc-passwd-seed0", "002-prompt-seed0", f"003-{'x' * 40}-seed0"]


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        claim_folder(tmp_path / "file")
    with pytest.raises(InputError, match="holds other files"):
        claim_folder(tmp_path)
    (tmp_path / "generate.json").write_text("{}")
    with pytest.raises(InputError, match="pictures of another run"):
        claim_folder(tmp_path)
    claim_folder(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep").is_dir()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Choose another --output"):
        claim_folder(tmp_path / "file" / "below")


def test_the_sheet_shows_failures_first_and_escapes_words():
    script = "<script>alert(1)</script>"
    prompts = [RED, script, *(f"number {n}" for n in range(8))]
    made_images = [made_image(RED, (255, 0, 0)), made_image(script, (255, 0, 0))]
    judgement = judge_images(made_images, ColourEncoder(), prompts=prompts)
    page = format_sheet(made_images, judgement=judgement, facts=["Made so."])
    images, text = read_page(page)
    assert len(images) == 4  # once with the verdict, once with its prompt
    assert text.index("Not recognised (1)") < text.index("Recognised (1)")
    assert "right one for 1 of 2 pictures: 50%" in text
    assert f"taken for {RED}" in text
    assert "<script>" not in page


def test_the_sheet_of_few_prompts_shows_frames_words_and_advice():
    frames = tuple(np.full((8, 8, 3), shade, np.uint8) for shade in (0, 100, 255))
    made_images = [made_image("a red and blue circle", (255, 0, 0), frames=frames)]
    feedback = give_feedback(made_images, ColourEncoder(), bank=[GREEN])
    images, text = read_page(format_sheet(made_images, feedback=[feedback]))
    assert len(images) == 1 + 3
    assert "What each word adds" in text
    assert feedback.lines[0] in text.replace("&#x27;", "'")


def test_the_sheet_of_a_run_that_made_nothing_is_a_page():
    images, text = read_page(format_sheet([], facts=["Stopped early: interrupted."]))
    assert images == []
    assert "0 pictures" in text
