import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captioning_fakes import FakeCaptioner, FakeEncoder, paint
from sightline.core.captioning import dual
from sightline.core.captioning.dual import CaptionConfig, CaptionFailure, DualCaption, caption_image, caption_images
from sightline.core.captioning.fuse import FusionWeights
from sightline.core.captioning.rank import BankRanker
from sightline.core.images.decode import read_image
from sightline.core.models.base import GenerationConfig
from sightline.errors import InputError, ModelError

TWO = GenerationConfig(num_candidates=2, beams=2)


@pytest.fixture
def candidates(tmp_path):
    path = tmp_path / "candidates.txt"
    path.write_text("something red\na red tomato in the snow\nthe blue sea\ngreen grass\n", encoding="utf-8")
    return path


def test_every_caption_of_both_sides_has_both_values(tmp_path, candidates):
    painted = paint(tmp_path / "a.png", "red", "white")
    config = CaptionConfig(top_k=2, candidates=candidates, generation=TWO)
    encoder, captioner = FakeEncoder(), FakeCaptioner()
    (result,) = caption_images([painted], encoder=encoder, captioner=captioner, config=config)
    assert result.path == painted
    assert [c.text for c in result.clip] == ["a red tomato in the snow", "something red"]
    assert [c.text for c in result.generated] == ["something red", "something white"]
    pixels = np.array([[[220, 20, 20]] * 8 + [[250] * 3] * 8] * 16, np.uint8)[None]
    image = encoder.encode_images(pixels)[0]
    for caption in (*result.clip, *result.generated):
        assert caption.similarity == pytest.approx(float(encoder.encode_texts([caption.text])[0] @ image), abs=1e-5)
        (log_prob,) = captioner.score(pixels, [[caption.text]])[0]
        if caption.source == "clip":
            assert caption.log_prob == pytest.approx(log_prob, abs=1e-5)


def test_the_best_stands_flagged_in_exactly_one_list(tmp_path, candidates):
    image = paint(tmp_path / "a.png", "red", "white")
    for weights, source in ((FusionWeights(log_prob=0), "clip"), (FusionWeights(similarity=0), "generated")):
        config = CaptionConfig(candidates=candidates, generation=TWO, weights=weights)
        (result,) = caption_images([image], encoder=FakeEncoder(), captioner=FakeCaptioner(), config=config)
        flagged = [caption for caption in (*result.clip, *result.generated) if caption.best]
        assert flagged == [result.best]
        assert result.best in (result.clip[0], *result.generated)  # no runner-up
        assert result.best.source == source


def test_without_a_captioner_there_are_ranked_candidates_from_the_bank(tmp_path):
    (result,) = caption_images([paint(tmp_path / "a.png", "green")], encoder=FakeEncoder())
    assert len(result.clip) == 5
    assert result.generated == ()
    assert result.best.text in {caption.text for caption in result.clip}
    assert {caption.log_prob for caption in result.clip} == {None}


def test_unreadable_files_keep_their_place_and_stop_nothing(tmp_path, candidates):
    broken = tmp_path / "broken.jpg"
    broken.write_text("not a picture")
    paths = [
        broken,
        paint(tmp_path / "1.png", "red"),
        tmp_path / "gone.png",
        paint(tmp_path / "2.png", "blue"),
        paint(tmp_path / "3.png", "green"),
        broken,
    ]
    encoder = FakeEncoder()
    config = CaptionConfig(candidates=candidates, batch_size=2)
    results = list(caption_images(paths, encoder=encoder, config=config))
    assert [result.path for result in results] == paths
    assert [type(result) for result in results] == [
        CaptionFailure, DualCaption, CaptionFailure, DualCaption, DualCaption, CaptionFailure,
    ]  # fmt: skip
    assert results[0].reason == "not an image (its content is text)"
    assert results[2].reason == "no such file"
    assert [r.best.text for r in results if isinstance(r, DualCaption)] == [
        "something red", "the blue sea", "green grass",
    ]  # fmt: skip
    assert encoder.batches == [2, 1]


def test_only_unreadable_files_never_reach_the_models(tmp_path, candidates):
    encoder = FakeEncoder()
    results = list(
        caption_images([tmp_path / "gone.png"] * 3, encoder=encoder, config=CaptionConfig(candidates=candidates))
    )
    assert [result.reason for result in results] == ["no such file"] * 3
    assert encoder.batches == []


def test_no_files_give_no_captions(candidates):
    assert list(caption_images([], encoder=FakeEncoder(), config=CaptionConfig(candidates=candidates))) == []


def test_each_file_is_decoded_once_large_enough_for_both_models(tmp_path, candidates, monkeypatch):
    asked = []

    def watch(path, *, min_side_px):
        asked.append((path.name, min_side_px))
        return read_image(path, min_side_px=min_side_px)

    monkeypatch.setattr(dual, "read_image", watch)
    paths = [paint(tmp_path / f"{i}.png", "red") for i in range(3)]
    config = CaptionConfig(candidates=candidates)
    list(caption_images(paths, encoder=FakeEncoder(size_px=16), captioner=FakeCaptioner(size_px=24), config=config))
    assert sorted(asked) == [(f"{i}.png", 24) for i in range(3)]


def test_an_endless_stream_is_read_only_some_batches_ahead(tmp_path, candidates):
    image = paint(tmp_path / "a.png", "red")
    taken = []

    def endless():
        while True:
            taken.append(image)
            yield image

    config = CaptionConfig(candidates=candidates, batch_size=2)
    stream = caption_images(endless(), encoder=FakeEncoder(), config=config)
    assert [next(stream).best.text for _ in range(5)] == ["something red"] * 5
    stream.close()  # type: ignore[attr-defined]
    assert len(taken) <= 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sightline-decode")]


def test_a_generator_without_words_leaves_the_candidates(tmp_path, candidates):
    class Silent(FakeCaptioner):
        def generate(self, pixels_BHW3, config):
            return [[] for _ in pixels_BHW3]

    config = CaptionConfig(candidates=candidates)
    (result,) = caption_images(
        [paint(tmp_path / "a.png", "blue")], encoder=FakeEncoder(), captioner=Silent(), config=config
    )
    assert result.generated == ()
    assert result.best.source == "clip"


def test_a_captioner_that_scores_nan_is_an_error_not_a_caption(tmp_path, candidates):
    class Broken(FakeCaptioner):
        def score(self, pixels_BHW3, texts):
            return [[float("nan") for _ in several] for several in texts]

    with pytest.raises(ModelError, match="isn't finite"):
        list(
            caption_images(
                [paint(tmp_path / "a.png", "blue")],
                encoder=FakeEncoder(),
                captioner=Broken(),
                config=CaptionConfig(candidates=candidates),
            )
        )


def test_a_bad_candidates_file_is_found_before_any_image_is_read(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        caption_images([tmp_path / "a.png"], encoder=FakeEncoder(), config=CaptionConfig(candidates=Path("no.txt")))


@pytest.mark.parametrize("name", ["top_k", "batch_size"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"{name} must be at least 1; it is 0"):
        CaptionConfig(**{name: 0})  # type: ignore[arg-type]


def test_one_decoded_image_is_captioned_as_its_file_would_be_also_with_candidates_in_memory(tmp_path, candidates):
    image = paint(tmp_path / "a.png", "red", "white")
    in_memory = CaptionConfig(candidates=("something red", "a red tomato in the snow"), generation=TWO)
    (of_file,) = caption_images([image], encoder=FakeEncoder(), captioner=FakeCaptioner(), config=in_memory)
    rgb = read_image(image).rgb
    result = caption_image(rgb, encoder=FakeEncoder(), captioner=FakeCaptioner(), config=in_memory)
    assert (result.clip, result.generated, result.best) == (of_file.clip, of_file.generated, of_file.best)
    assert [c.text for c in result.clip] == ["a red tomato in the snow", "something red"]


def test_batches_grow_while_they_are_quick_and_captions_are_the_same(tmp_path, candidates, monkeypatch):
    images = [paint(tmp_path / f"{number}.png", "red", "blue") for number in range(20)]
    sizes = []
    encoder = FakeEncoder()
    encode, seconds = encoder.encode_images, iter(range(100))
    monkeypatch.setattr(encoder, "encode_images", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))  # each batch takes one second
    paced = list(caption_images(images, encoder=encoder, config=CaptionConfig(candidates=candidates, batch_s=5.0)))
    assert sizes == [1, 2, 4, 8, 5]
    whole = list(caption_images(images, encoder=FakeEncoder(), config=CaptionConfig(candidates=candidates)))
    assert [result.best.text for result in paced] == [result.best.text for result in whole]
    sizes.clear()
    seconds = iter(range(0, 1000, 10))  # each takes ten: no batch is small enough
    list(caption_images(images[:4], encoder=encoder, config=CaptionConfig(candidates=candidates, batch_s=5.0)))
    assert sizes == [1, 1, 1, 1]


def test_a_batch_takes_some_time():
    with pytest.raises(InputError, match="more than 0 seconds"):
        CaptionConfig(batch_s=0)


def test_a_generator_sees_no_people_where_clip_sees_none(tmp_path, monkeypatch):
    class Author(FakeCaptioner):
        def generate(self, pixels_BHW3, config):
            return [[replace(several[0], text="a red man")] for several in super().generate(pixels_BHW3, config)]

    image = paint(tmp_path / "a.png", "red")
    for people_nats, source in ((50.0, "generated"), (-50.0, "clip")):
        monkeypatch.setattr(BankRanker, "weigh_people", lambda self, images, w=people_nats: np.full(len(images), w))
        (result,) = caption_images([image], encoder=FakeEncoder(), captioner=Author())
        assert result.best.source == source
