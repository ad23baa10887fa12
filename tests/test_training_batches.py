from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sightline.core.images.preprocess import Preprocessing
from sightline.errors import InputError
from sightline.lab.data.base import Dataset, HardNegative, Pair
from sightline.lab.training.augment import Augmentation, FixedCrops
from sightline.lab.training.batches import NO_GROUP, Batches, Sampling
from sightline.lab.training.vocabulary import EOS_ID, PAD_ID
from training_world import word_tokenizer

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
WORDS = " ".join([*NUMBERS, "picture", "number", "is", "not", "surely"])
N_PICTURES = 12
SIDE = 8
STILL = Augmentation(crop_min=1.0, flip=False, colour_jitter=0.0)
LIVELY = Augmentation(crop_min=0.5, aspect_jitter=1.5, flip=True, colour_jitter=0.3)
PREPROCESSING = Preprocessing(size_px=SIDE, resize_mode="squash", mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125))


@dataclass(frozen=True)
class NoImage:
    """Pixels come from the cache."""


def make_pair(n, *, label=None):
    """Picture n says its number in two captions, one word longer than the other; the first has two negatives."""
    captions = (f"picture {NUMBERS[n]}", f"number {NUMBERS[n]} surely")
    negatives = [
        HardNegative(caption=captions[0], negative=f"picture {wrong} is {NUMBERS[n]}", kind="replacement")
        for wrong in ("not", "number")
    ]
    return Pair(id=f"p{n}", image=NoImage(), captions=captions, negatives=tuple(negatives), label=label)


def make_batches(*, labels=None, padding="longest", usable_N=None, teacher_ND=None, crops=None, sizes=(), **sampling):
    pairs = [make_pair(n, label=None if labels is None else labels[n]) for n in range(N_PICTURES)]
    settings = {
        "batch_size": 6, "seed": 1, "captions_per_image": 2, "negatives_per_caption": 1, "size_px": SIDE,
        "augmentation": LIVELY, "words_count": 9,
    }  # fmt: skip
    return Batches(
        Dataset(name="made", split="train", pairs=pairs, fingerprint="made", sizes=sizes),
        np.random.default_rng(0).integers(0, 256, (N_PICTURES, SIDE, SIDE, 3), np.uint8),
        word_tokenizer(WORDS, context_length=7, padding=padding),
        preprocessing=PREPROCESSING,
        sampling=Sampling(**{**settings, **sampling}),
        usable_N=usable_N,
        teacher_ND=teacher_ND,
        crops=crops,
    )


def words_of(ids_TL):
    """Sentences again, so that padding plays no part."""
    words = dict(enumerate(WORDS.split(), start=4))
    return [" ".join(words[int(i)] for i in row if int(i) > EOS_ID) for row in ids_TL]


def texts_of(batch):
    """(sentence, group, caption) of each text, captions before negatives."""
    return list(zip(words_of(batch.ids_TL), batch.group_T.tolist(), batch.caption_T.tolist(), strict=True))


def assert_same(one, other):
    assert torch.equal(one.image_B3SS, other.image_B3SS)
    for name in ("ids_TL", "group_B", "group_T", "caption_T", "word_BK"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.rows.tolist() == other.rows.tolist()


def assert_parts_make_the_whole(parts, whole):
    assert torch.equal(torch.cat([part.image_B3SS for part in parts]), whole.image_B3SS)
    assert torch.equal(torch.cat([part.group_B for part in parts]), whole.group_B)
    assert torch.equal(torch.cat([part.word_BK for part in parts]), whole.word_BK)
    assert torch.equal(torch.cat([part.teacher_BD for part in parts]), whole.teacher_BD)
    assert np.concatenate([part.rows for part in parts]).tolist() == whole.rows.tolist()
    gathered = [text for part in parts for text in texts_of(part)]
    for is_negative in (False, True):
        kept, expected = (
            [text for text in texts if (text[1] == NO_GROUP) == is_negative] for texts in (gathered, texts_of(whole))
        )
        assert len(kept) > 0
        assert kept == expected


def test_a_step_is_the_same_whatever_was_asked_before():
    batches = make_batches()
    first = [batches.at(step)[0] for step in (0, 1, 5)]
    again = make_batches()
    for step, batch in ((5, first[2]), (0, first[0]), (1, first[1]), (5, first[2])):
        assert_same(again.at(step)[0], batch)


def test_steps_and_seeds_differ():
    batches, other = make_batches(), make_batches(seed=2)
    assert batches.at(0)[0].rows.tolist() != other.at(0)[0].rows.tolist()
    # One epoch after the other: each picture once, then again in another order, cropped in another way.
    epochs = [[batches.at(step)[0] for step in range(first, first + 2)] for first in (0, 2)]
    orders = [np.concatenate([batch.rows for batch in epoch]).tolist() for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(N_PICTURES))
    assert orders[0] != orders[1]
    images = [
        torch.cat([batch.image_B3SS for batch in epoch])[np.argsort(o)] for epoch, o in zip(epochs, orders, strict=True)
    ]
    assert ((images[0] - images[1]).abs().amax(dim=(1, 2, 3)) > 0.05).sum() >= N_PICTURES - 1


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_together_see_the_batch_of_one(n_ranks):
    teacher_ND = np.random.default_rng(1).standard_normal((N_PICTURES, 3)).astype(np.float32)
    ranks = [make_batches(rank=rank, world_size=n_ranks, teacher_ND=teacher_ND) for rank in range(n_ranks)]
    alone = make_batches(teacher_ND=teacher_ND)
    for step in (0, 3):
        parts = [batches.at(step) for batches in ranks]
        assert [len(part) for part in parts] == [1] * n_ranks
        assert_parts_make_the_whole([part[0] for part in parts], alone.at(step)[0])


def test_chunks_together_are_the_batch_and_the_last_may_be_smaller():
    teacher_ND = np.zeros((N_PICTURES, 3), np.float32)
    chunks = make_batches(chunk_size=4, teacher_ND=teacher_ND).at(2)
    assert [len(chunk.rows) for chunk in chunks] == [4, 2]
    assert_parts_make_the_whole(chunks, make_batches(teacher_ND=teacher_ND).at(2)[0])


def test_chunks_of_ranks_together_are_the_batch():
    teacher_ND = np.zeros((N_PICTURES, 3), np.float32)
    parts = [
        chunk
        for rank in range(2)
        for chunk in make_batches(rank=rank, world_size=2, chunk_size=2, teacher_ND=teacher_ND).at(1)
    ]
    assert [len(part.rows) for part in parts] == [2, 1, 2, 1]
    assert_parts_make_the_whole(parts, make_batches(teacher_ND=teacher_ND).at(1)[0])


def test_a_chunk_size_beyond_the_batch_changes_nothing():
    assert_same(make_batches(chunk_size=100).at(0)[0], make_batches().at(0)[0])


def test_texts_belong_to_the_pictures_that_they_describe():
    for step in range(4):
        batch = make_batches(negatives_per_caption=0).at(step)[0]
        assert batch.group_B.tolist() == batch.rows.tolist()
        for sentence, group, caption in texts_of(batch):
            assert NUMBERS[group] in sentence.split()
            assert group in batch.rows
            assert caption // 2 == group  # each picture has two captions
        assert len({caption for _, _, caption in texts_of(batch)}) == 12


def test_hard_negatives_have_the_number_of_the_caption_that_they_falsify_and_no_group():
    batch = make_batches(negatives_per_caption=5).at(0)[0]
    texts = texts_of(batch)
    captions = {caption: sentence for sentence, group, caption in texts if group != NO_GROUP}
    negatives = [(sentence, caption) for sentence, group, caption in texts if group == NO_GROUP]
    assert (len(captions), len(negatives)) == (12, 12)  # of each picture one caption has two negatives, the other none
    for sentence, caption in negatives:
        assert captions[caption].startswith("picture ")
        assert captions[caption].split()[-1] == sentence.split()[-1]
    assert len(set(negatives)) == 12


def test_as_many_negatives_are_drawn_as_are_asked_for():
    assert (make_batches(negatives_per_caption=1).at(0)[0].group_T == NO_GROUP).sum() == 6
    assert make_batches(negatives_per_caption=0).negatives is None
    assert (make_batches(negatives_per_caption=0).at(0)[0].group_T != NO_GROUP).all()


def test_one_caption_an_image_is_drawn_anew_in_each_step():
    batches = make_batches(captions_per_image=1, negatives_per_caption=0)
    drawn = {}
    for step in range(40):
        batch = batches.at(step)[0]
        assert len(batch.ids_TL) == 6
        for sentence, group, _ in texts_of(batch):
            drawn.setdefault(group, set()).add(sentence)
    assert all(len(sentences) == 2 for sentences in drawn.values())


def test_pairs_without_negatives_give_none():
    batches = make_batches(negatives_per_caption=2)
    batches.dataset.pairs[:] = [Pair(id=p.id, image=p.image, captions=p.captions) for p in batches.dataset.pairs]
    plain = Batches(
        batches.dataset,
        batches._pixels_NSS3,
        word_tokenizer(WORDS),
        preprocessing=PREPROCESSING,
        sampling=batches.sampling,
    )
    assert plain.negatives is None
    assert (plain.at(0)[0].group_T >= 0).all()


def test_pictures_of_one_label_share_a_group():
    labels = [n % 3 for n in range(N_PICTURES)]
    batch = make_batches(labels=labels).at(0)[0]
    assert batch.group_B.tolist() == [N_PICTURES + row % 3 for row in batch.rows]
    for sentence, group, _ in texts_of(batch):
        number = next(i for i, name in enumerate(NUMBERS) if name in sentence.split())
        assert group in (NO_GROUP, N_PICTURES + number % 3)


def test_a_picture_without_a_label_is_a_group_of_its_own():
    labels = [0, None] * (N_PICTURES // 2)
    batch = make_batches(labels=labels).at(0)[0]
    assert batch.group_B.tolist() == [row if row % 2 else N_PICTURES for row in batch.rows]


def test_an_epoch_takes_the_first_set_as_often_as_asked_and_every_text_knows_its_set():
    batches = make_batches(sizes=(4, 8), repeats=3, batch_size=5)
    assert batches.steps_per_epoch == (3 * 4 + 8) // 5
    drawn = [batches.at(step)[0] for step in range(batches.steps_per_epoch)]
    rows = np.concatenate([batch.rows for batch in drawn])
    assert sorted(rows) == sorted([*range(4)] * 3 + [*range(4, 12)])
    for batch in drawn:
        assert batch.set_B.tolist() == [int(row >= 4) for row in batch.rows]
        for (sentence, group, _), part in zip(texts_of(batch), batch.set_T.tolist(), strict=True):
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
        batch = batches.at(step)[0]
        owners = crops.owners()[batch.teacher_BD[:, 0].long()]
        assert owners.tolist() == batch.rows.tolist()
        for crop, picture in zip(batch.teacher_BD[:, 0].tolist(), batch.image_B3SS, strict=True):
            assert torch.equal(seen.setdefault(crop, picture), picture)
    assert len(seen) == 20
    whole = make_batches(augmentation=STILL).at(0)[0]
    first_of = {row: int(crops.first_N[row]) for row in range(N_PICTURES)}
    for row, picture in zip(whole.rows, whole.image_B3SS, strict=True):
        torch.testing.assert_close(seen[first_of[int(row)]], picture, atol=1e-5, rtol=0)


def test_pictures_that_cannot_be_read_never_occur():
    usable_N = np.ones(N_PICTURES, bool)
    usable_N[[0, 7, 11]] = False
    batches = make_batches(usable_N=usable_N, batch_size=4)
    assert batches.steps_per_epoch == 2
    seen = {int(row) for step in range(20) for row in batches.at(step)[0].rows}
    assert seen == set(range(N_PICTURES)) - {0, 7, 11}
    assert batches.ids_of(batches.at(0)[0].rows) == [f"p{row}" for row in batches.at(0)[0].rows]


def test_fewer_usable_pictures_than_a_batch_are_refused():
    usable_N = np.arange(N_PICTURES) < 5
    with pytest.raises(InputError, match="made has 5 usable pictures, fewer than one batch of 6"):
        make_batches(usable_N=usable_N)


def test_a_batch_is_padded_to_its_longest_text_or_to_the_models_length():
    for step in range(3):
        longest = make_batches(negatives_per_caption=0).at(step)[0].ids_TL
        fixed = make_batches(negatives_per_caption=0, padding="fixed").at(step)[0].ids_TL
        assert (longest.shape, fixed.shape) == ((12, 5), (12, 7))
        assert torch.equal(fixed[:, :5], longest)
        assert (fixed[:, 5:] == PAD_ID).all()
        assert longest.dtype == torch.int64


def test_pixels_are_the_pictures_own_normalised():
    batches = make_batches(augmentation=STILL)
    batch = batches.at(0)[0]
    rgb = batches._pixels_NSS3[batch.rows].astype(np.float32) / 255
    expected = (rgb - np.float32(PREPROCESSING.mean)) / np.float32(PREPROCESSING.std)
    np.testing.assert_allclose(batch.image_B3SS.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert batch.image_B3SS.is_contiguous(memory_format=torch.channels_last)


def test_pictures_may_be_trained_on_at_another_size():
    assert make_batches(size_px=5).at(0)[0].image_B3SS.shape == (6, 3, 5, 5)


def test_teacher_and_words_are_those_of_the_rows():
    teacher_ND = np.arange(N_PICTURES, dtype=np.float32)[:, None]
    batches = make_batches(teacher_ND=teacher_ND)
    batch = batches.at(0)[0]
    assert batch.teacher_BD[:, 0].tolist() == batch.rows.tolist()
    assert torch.equal(batch.word_BK, batches.words.labels(batch.rows))
    assert make_batches(words_count=0).at(0)[0].word_BK is None
    assert make_batches().at(0)[0].teacher_BD is None
