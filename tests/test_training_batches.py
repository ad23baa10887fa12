from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.core.images.preprocess import Preprocessing
from sightline.errors import InputError
from sightline.lab.data.base import Dataset, HardNegative, Pair
from sightline.lab.data.pixel_cache import PixelCache, open_pixel_cache
from sightline.lab.data.pixel_stream import PixelStream
from sightline.lab.training.batches import NO_GROUP, Augmentation, Batches, FixedCrops
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.losses import Targets
from sightline.lab.training.parallel import World
from sightline.lab.training.towers import EOS_ID, PAD_ID
from training_world import word_tokenizer

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
WORDS = " ".join([*NUMBERS, "picture", "number", "is", "not", "surely"])
N_IMAGES = 12
SIDE = 8
STILL = Augmentation(crop_min=1.0, flip=False, colour_jitter=0.0)
LIVELY = Augmentation(crop_min=0.5, aspect_jitter=1.5, flip=True, colour_jitter=0.3)
PREPROCESSING = Preprocessing(size_px=SIDE, resize_mode="squash", mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125))


@dataclass(frozen=True)
class NoImage:
    """Pixels come from the cache."""


@dataclass(frozen=True)
class Painted:
    """An image that is decoded whenever it is read."""

    number: int

    def read(self, *, min_side_px=None):
        return np.random.default_rng(self.number).integers(0, 256, (20, 30, 3), np.uint8)


def make_pair(n, *, label=None):
    """Picture n says its number in two captions, one word longer than the other; the first has two negatives."""
    captions = (f"picture {NUMBERS[n]}", f"number {NUMBERS[n]} surely")
    negatives = [
        HardNegative(caption=captions[0], negative=f"picture {wrong} is {NUMBERS[n]}", kind="replacement")
        for wrong in ("not", "number")
    ]
    return Pair(id=f"p{n}", image=NoImage(), captions=captions, negatives=tuple(negatives), label=label)  # type: ignore[arg-type]


def make_batches(
    *, labels=None, padding="longest", usable_N=None, teacher_ND=None, crops=None, sizes=(), augmentation=LIVELY,
    rank=0, world_size=1, **changes,
):  # fmt: skip
    pairs = [make_pair(n, label=None if labels is None else labels[n]) for n in range(N_IMAGES)]
    settings = {
        "batch_size": 6, "seed": 1, "captions_per_image": 2, "negatives_per_caption": 1, "words_weight": 1.0,
        "words_count": 9,
    }  # fmt: skip
    dataset = Dataset(name="made", split="train", pairs=pairs, fingerprint="made", sizes=sizes)
    return batches_of(
        dataset,
        tokenizer=word_tokenizer(WORDS, context_length=7, padding=padding),
        config=TrainConfig(recipe="test", data="made", **{**settings, **changes}),
        usable_N=usable_N,
        augmentation=augmentation,
        world=World(rank=rank, size=world_size),
        teacher_ND=teacher_ND,
        crops=crops,
    )


def batches_of(dataset, *, tokenizer, config, usable_N=None, **options):
    pixels = PixelCache(
        pixels_NSS3=np.random.default_rng(0).integers(0, 256, (N_IMAGES, SIDE, SIDE, 3), np.uint8),
        readable_N=np.ones(N_IMAGES, bool) if usable_N is None else usable_N,
        problems=(),
        folder=Path(),
    )
    return Batches(config, dataset, pixels, tokenizer, preprocessing=PREPROCESSING, **options)


def words_of(ids_TL):
    """Sentences again, so that padding plays no part."""
    words = dict(enumerate(WORDS.split(), start=4))
    return [" ".join(words[int(i)] for i in row if int(i) > EOS_ID) for row in ids_TL]


@dataclass(frozen=True)
class Seen:
    """What a step trains on: of some ranks their chunks in one, and the targets of all."""

    image_B3SS: torch.Tensor
    words_T: list[str]
    targets: Targets
    rows: np.ndarray


def see(batches, step):
    """The batch of a step, of one rank or of all those in a list."""
    ranks = [rank.at(step) for rank in (batches if isinstance(batches, list) else [batches])]
    chunks = [chunk for batch in ranks for chunk in batch.chunks]
    for batch in ranks[1:]:
        assert_same_targets(batch.targets, ranks[0].targets)
        assert batch.rows.tolist() == ranks[0].rows.tolist()
    return Seen(
        image_B3SS=torch.cat([chunk.image_B3SS for chunk in chunks]),
        words_T=[sentence for chunk in chunks for sentence in words_of(chunk.ids_TL)],
        targets=ranks[0].targets,
        rows=ranks[0].rows,
    )


def texts_of(seen):
    """(sentence, group, caption) of each text."""
    return list(zip(seen.words_T, seen.targets.group_T.tolist(), seen.targets.caption_T.tolist(), strict=True))


def assert_same_targets(one, other):
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(other, name)), name


def assert_same(one, other):
    assert torch.equal(one.image_B3SS, other.image_B3SS)
    assert one.words_T == other.words_T
    assert_same_targets(one.targets, other.targets)
    assert one.rows.tolist() == other.rows.tolist()


def assert_parts_make_the_whole(parts, whole):
    assert torch.equal(parts.image_B3SS, whole.image_B3SS)
    for name in ("group_B", "word_BK", "teacher_BD"):
        assert torch.equal(getattr(parts.targets, name), getattr(whole.targets, name)), name
    assert parts.rows.tolist() == whole.rows.tolist()
    for is_negative in (False, True):
        kept, expected = (
            [text for text in texts_of(one) if (text[1] == NO_GROUP) == is_negative] for one in (parts, whole)
        )
        assert len(kept) > 0
        assert kept == expected


def test_a_step_is_the_same_whatever_was_asked_before():
    batches = make_batches()
    first = [see(batches, step) for step in (0, 1, 5)]
    again = make_batches()
    for step, batch in ((5, first[2]), (0, first[0]), (1, first[1]), (5, first[2])):
        assert_same(see(again, step), batch)


def test_steps_and_seeds_differ():
    batches, other = make_batches(), make_batches(seed=2)
    assert see(batches, 0).rows.tolist() != see(other, 0).rows.tolist()
    # One epoch after the other: each picture once, then again in another order, cropped in another way.
    epochs = [[see(batches, step) for step in range(first, first + 2)] for first in (0, 2)]
    orders = [np.concatenate([batch.rows for batch in epoch]).tolist() for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(N_IMAGES))
    assert orders[0] != orders[1]
    images = [
        torch.cat([batch.image_B3SS for batch in epoch])[np.argsort(o)] for epoch, o in zip(epochs, orders, strict=True)
    ]
    assert ((images[0] - images[1]).abs().amax(dim=(1, 2, 3)) > 0.05).sum() >= N_IMAGES - 1


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_together_see_the_batch_of_one(n_ranks):
    teacher_ND = np.random.default_rng(1).standard_normal((N_IMAGES, 3)).astype(np.float32)
    ranks = [make_batches(rank=rank, world_size=n_ranks, teacher_ND=teacher_ND) for rank in range(n_ranks)]
    alone = make_batches(teacher_ND=teacher_ND)
    for step in (0, 3):
        assert [len(rank.at(step).chunks) for rank in ranks] == [1] * n_ranks
        assert_parts_make_the_whole(see(ranks, step), see(alone, step))


def sizes_of(batch):
    return [len(chunk.image_B3SS) for chunk in batch.chunks]


def test_chunks_together_are_the_batch_and_the_last_may_be_smaller():
    teacher_ND = np.zeros((N_IMAGES, 3), np.float32)
    batches = make_batches(chunk_size=4, teacher_ND=teacher_ND)
    assert sizes_of(batches.at(2)) == [4, 2]
    assert_parts_make_the_whole(see(batches, 2), see(make_batches(teacher_ND=teacher_ND), 2))


def test_chunks_of_ranks_together_are_the_batch():
    teacher_ND = np.zeros((N_IMAGES, 3), np.float32)
    ranks = [make_batches(rank=rank, world_size=2, chunk_size=2, teacher_ND=teacher_ND) for rank in range(2)]
    assert [sizes_of(rank.at(1)) for rank in ranks] == [[2, 1], [2, 1]]
    assert_parts_make_the_whole(see(ranks, 1), see(make_batches(teacher_ND=teacher_ND), 1))


def test_what_ranks_cannot_share_evenly_is_left_out_by_all():
    ranks = [make_batches(rank=rank, world_size=4, chunk_size=1) for rank in range(4)]
    seen, whole = see(ranks, 0), see(make_batches(), 0)
    assert [sizes_of(rank.at(0)) for rank in ranks] == [[1]] * 4
    assert seen.rows.tolist() == seen.targets.group_B.tolist() == whole.rows[:4].tolist()
    assert len(seen.words_T) == len(seen.targets.group_T) < len(whole.words_T)


def test_a_chunk_size_beyond_the_batch_changes_nothing():
    assert_same(see(make_batches(chunk_size=100), 0), see(make_batches(), 0))


def test_texts_belong_to_the_images_that_they_describe():
    for step in range(4):
        batch = see(make_batches(negatives_per_caption=0), step)
        assert batch.targets.group_B.tolist() == batch.rows.tolist()
        for sentence, group, caption in texts_of(batch):
            assert NUMBERS[group] in sentence.split()
            assert group in batch.rows
            assert caption // 2 == group  # each picture has two captions
        assert len({caption for _, _, caption in texts_of(batch)}) == 12


def test_hard_negatives_have_the_number_of_the_caption_that_they_falsify_and_no_group():
    batch = see(make_batches(negatives_per_caption=5), 0)
    texts = texts_of(batch)
    captions = {caption: sentence for sentence, group, caption in texts if group != NO_GROUP}
    negatives = [(sentence, caption) for sentence, group, caption in texts if group == NO_GROUP]
    assert (len(captions), len(negatives)) == (12, 12)  # of each picture one caption has two negatives, the other none
    for sentence, caption in negatives:
        assert captions[caption].startswith("picture ")
        assert captions[caption].split()[-1] == sentence.split()[-1]
    assert len(set(negatives)) == 12


def test_as_many_negatives_are_drawn_as_are_asked_for():
    assert (see(make_batches(negatives_per_caption=1), 0).targets.group_T == NO_GROUP).sum() == 6
    assert make_batches(negatives_per_caption=0).negatives is None
    assert (see(make_batches(negatives_per_caption=0), 0).targets.group_T != NO_GROUP).all()


def test_one_caption_an_image_is_drawn_anew_in_each_step():
    batches = make_batches(captions_per_image=1, negatives_per_caption=0)
    drawn = {}
    for step in range(40):
        batch = see(batches, step)
        assert len(batch.words_T) == 6
        for sentence, group, _ in texts_of(batch):
            drawn.setdefault(group, set()).add(sentence)
    assert all(len(sentences) == 2 for sentences in drawn.values())


def test_pairs_without_negatives_give_none():
    batches = make_batches(negatives_per_caption=2)
    batches.dataset.pairs[:] = [Pair(id=p.id, image=p.image, captions=p.captions) for p in batches.dataset.pairs]
    plain = batches_of(
        batches.dataset,
        tokenizer=word_tokenizer(WORDS),
        config=batches.config,
        augmentation=LIVELY,
        world=World(),
    )
    assert plain.negatives is None
    assert (see(plain, 0).targets.group_T >= 0).all()


def test_images_of_one_label_share_a_group():
    labels = [n % 3 for n in range(N_IMAGES)]
    batch = see(make_batches(labels=labels), 0)
    assert batch.targets.group_B.tolist() == [N_IMAGES + row % 3 for row in batch.rows]
    for sentence, group, _ in texts_of(batch):
        number = next(i for i, name in enumerate(NUMBERS) if name in sentence.split())
        assert group in (NO_GROUP, N_IMAGES + number % 3)


def test_an_image_without_a_label_is_a_group_of_its_own():
    labels = [0, None] * (N_IMAGES // 2)
    batch = see(make_batches(labels=labels), 0)
    assert batch.targets.group_B.tolist() == [row if row % 2 else N_IMAGES for row in batch.rows]


def test_an_epoch_takes_the_first_set_as_often_as_asked_and_every_text_knows_its_set():
    batches = make_batches(sizes=(4, 8), data_repeats=3, batch_size=5)
    assert batches.steps_per_epoch == (3 * 4 + 8) // 5
    drawn = [see(batches, step) for step in range(batches.steps_per_epoch)]
    rows = np.concatenate([batch.rows for batch in drawn])
    assert sorted(rows) == sorted([*range(4)] * 3 + [*range(4, 12)])
    for batch in drawn:
        assert batch.targets.set_B.tolist() == [int(row >= 4) for row in batch.rows]
        for (sentence, group, _), part in zip(texts_of(batch), batch.targets.set_T.tolist(), strict=True):
            if group != NO_GROUP:
                assert part == int(NUMBERS.index(next(w for w in sentence.split() if w in NUMBERS)) >= 4)


def test_fixed_crops_come_again_and_bring_their_own_teacher_row():
    counts_N = torch.tensor([3] * 4 + [1] * 8)
    crops = FixedCrops.draw(counts_N, LIVELY, seed=5)
    teacher_CD = np.arange(20, dtype=np.float32)[:, None]
    still = Augmentation(crop_min=0.5, flip=False, colour_jitter=0.0)
    batches = make_batches(crops=crops, teacher_ND=teacher_CD, augmentation=still)
    seen = {}
    for step in range(60):
        batch = see(batches, step)
        owners = crops.owners()[batch.targets.teacher_BD[:, 0].long()]
        assert owners.tolist() == batch.rows.tolist()
        for crop, image in zip(batch.targets.teacher_BD[:, 0].tolist(), batch.image_B3SS, strict=True):
            assert torch.equal(seen.setdefault(crop, image), image)
    assert len(seen) == 20
    whole = see(make_batches(augmentation=STILL), 0)
    first_of = {row: int(crops.first_N[row]) for row in range(N_IMAGES)}
    for row, image in zip(whole.rows, whole.image_B3SS, strict=True):
        torch.testing.assert_close(seen[first_of[int(row)]], image, atol=1e-5, rtol=0)


def test_images_that_cannot_be_read_never_occur():
    usable_N = np.ones(N_IMAGES, bool)
    usable_N[[0, 7, 11]] = False
    batches = make_batches(usable_N=usable_N, batch_size=4)
    assert batches.steps_per_epoch == 2
    seen = {int(row) for step in range(20) for row in see(batches, step).rows}
    assert seen == set(range(N_IMAGES)) - {0, 7, 11}
    assert batches.ids_of(see(batches, 0).rows) == [f"p{row}" for row in see(batches, 0).rows]


def test_fewer_usable_images_than_a_batch_are_refused():
    usable_N = np.arange(N_IMAGES) < 5
    with pytest.raises(InputError, match="made has 5 usable pictures, fewer than one batch of 6"):
        make_batches(usable_N=usable_N)


def test_a_batch_is_padded_to_its_longest_text_or_to_the_models_length():
    for step in range(3):
        longest = make_batches(negatives_per_caption=0).at(step).chunks[0].ids_TL
        fixed = make_batches(negatives_per_caption=0, padding="fixed").at(step).chunks[0].ids_TL
        assert (longest.shape, fixed.shape) == ((12, 5), (12, 7))
        assert torch.equal(fixed[:, :5], longest)
        assert (fixed[:, 5:] == PAD_ID).all()
        assert longest.dtype == torch.int64


def test_pixels_are_the_images_own_normalised():
    batches = make_batches(augmentation=STILL)
    batch = see(batches, 0)
    rgb = batches._pixels_NSS3[batch.rows].astype(np.float32) / 255
    expected = (rgb - np.float32(PREPROCESSING.mean)) / np.float32(PREPROCESSING.std)  # type: ignore[arg-type]
    np.testing.assert_allclose(batch.image_B3SS.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert batch.image_B3SS.is_contiguous(memory_format=torch.channels_last)


def test_images_may_be_trained_on_at_another_size():
    assert see(make_batches(train_px=5), 0).image_B3SS.shape == (6, 3, 5, 5)


def test_teacher_and_words_are_those_of_the_rows():
    teacher_ND = np.arange(N_IMAGES, dtype=np.float32)[:, None]
    batches = make_batches(teacher_ND=teacher_ND)
    batch = see(batches, 0)
    assert batch.targets.teacher_BD[:, 0].tolist() == batch.rows.tolist()
    assert torch.equal(batch.targets.word_BK, batches.words.labels(batch.rows))
    assert see(make_batches(words_weight=0), 0).targets.word_BK is None
    assert see(make_batches(), 0).targets.teacher_BD is None


def test_images_that_are_decoded_anew_are_those_of_a_cache(tmp_path):
    pairs = [replace(make_pair(n), image=Painted(n)) for n in range(N_IMAGES)]
    dataset = Dataset(name="painted", split="train", pairs=pairs, fingerprint="painted")
    tokenizer = word_tokenizer(WORDS, context_length=7, padding="longest")
    config = TrainConfig(recipe="test", data="made", batch_size=6, seed=1)
    stream = PixelStream(dataset, preprocessing=PREPROCESSING)
    made = [
        Batches(
            config,
            dataset,
            pixels,
            tokenizer,
            preprocessing=PREPROCESSING,
            augmentation=LIVELY,
            world=World(rank=1, size=2),
        )
        for pixels in (open_pixel_cache(dataset, preprocessing=PREPROCESSING, folder=tmp_path), stream)
    ]
    for step in (0, 1, 2, 5):
        kept, decoded = (batches.at(step).chunks[0].image_B3SS for batches in made)
        assert torch.equal(kept, decoded)
        assert len(kept) == 3
    stream.close()
