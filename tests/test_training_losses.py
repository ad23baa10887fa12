import math
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from sightline.errors import TrainingError
from sightline.lab.training.config import LossName, TrainConfig
from sightline.lab.training.losses import (
    Objective,
    chance_loss,
    contrastive,
    distillation,
    negatives_loss,
    sigmoid_contrastive,
    softmax_contrastive,
)

# Three images with 2, 1 and 3 captions in mixed order, and a hard negative.
GROUP_B = torch.tensor([7, 3, 5])
GROUP_T = torch.tensor([5, 7, 3, 5, -1, 7, 5])


def make_features(n_images=3, n_texts=7, dim=6, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    image_BD, text_TD = (torch.randn(n, dim, generator=generator, dtype=dtype) for n in (n_images, n_texts))
    return functional.normalize(image_BD, dim=1), functional.normalize(text_TD, dim=1)


def softmax_one_way(similarity, group_rows, group_columns):
    """The definition, pair by pair."""
    means = []
    for row, group in enumerate(group_rows):
        positives = [c for c, other in enumerate(group_columns) if other == group and group >= 0]
        negatives = [c for c in range(len(group_columns)) if c not in positives]
        losses = [
            -math.log(
                math.exp(similarity[row][p])
                / (math.exp(similarity[row][p]) + sum(math.exp(similarity[row][n]) for n in negatives))
            )
            for p in positives
        ]
        if losses:
            means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


def softmax_by_pairs(image_BD, text_TD, group_B, group_T, scale):
    similarity = (scale * image_BD @ text_TD.T).tolist()
    turned = (scale * text_TD @ image_BD.T).tolist()
    groups_B, groups_T = group_B.tolist(), group_T.tolist()
    return (softmax_one_way(similarity, groups_B, groups_T) + softmax_one_way(turned, groups_T, groups_B)) / 2


def test_softmax_of_two_images_by_hand():
    # Image 0 has texts 0 and 1, image 1 has text 2. With scale ln 2 a cosine of 1 counts 2, of 0 counts 1.
    image_BD = torch.eye(2)
    text_TD = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    loss = softmax_contrastive(image_BD, text_TD, torch.tensor([0, 1]), torch.tensor([0, 0, 1]), scale=math.log(2))
    image_to_text = (-math.log(2 / (2 + 2)) + -math.log(1 / (1 + 2))) / 2
    text_to_image = (2 * -math.log(2 / (2 + 1)) + -math.log(1 / (1 + 2))) / 3
    assert float(loss) == pytest.approx((image_to_text + text_to_image) / 2, rel=1e-6)


def test_sigmoid_of_two_images_by_hand():
    image_BD, text_TD = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    group = torch.tensor([0, 1])
    loss = sigmoid_contrastive(image_BD, text_TD, group, group, scale=2.0, bias=-1.0)
    sigmoid = {x: 1 / (1 + math.exp(-x)) for x in (1, -1)}
    # logits: image 0 sees 1 for both texts, image 1 sees -1 for both
    terms = [sigmoid[1], 1 - sigmoid[1], 1 - sigmoid[-1], sigmoid[-1]]
    assert float(loss) == pytest.approx(-sum(map(math.log, terms)) / 2, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("group_B", "group_T"),
    [
        (GROUP_B, GROUP_T),
        (torch.tensor([4, 4, 9]), torch.tensor([9, 4, 4, 9, 2, -1, 4])),  # two images of a class, a text of none
        (torch.tensor([-1, 0, 1]), torch.tensor([0, 1, 1, -1, -1, 0, 0])),  # an image without a text
    ],
)
def test_softmax_equals_the_definition_over_pairs(group_B, group_T, seed):
    image_BD, text_TD = make_features(seed=seed)
    loss = softmax_contrastive(image_BD, text_TD, group_B, group_T, scale=9.0)
    assert float(loss) == pytest.approx(softmax_by_pairs(image_BD, text_TD, group_B, group_T, 9.0), rel=1e-10)


def test_sigmoid_equals_the_definition_over_pairs():
    image_BD, text_TD = make_features()
    loss = sigmoid_contrastive(image_BD, text_TD, GROUP_B, GROUP_T, scale=5.0, bias=-2.0)
    total = 0.0
    for image, group in zip(image_BD, GROUP_B, strict=True):
        for text, other in zip(text_TD, GROUP_T, strict=True):
            logit = 5.0 * float(image @ text) - 2.0
            total -= math.log(1 / (1 + math.exp(-logit if group == other else logit)))
    assert float(loss) == pytest.approx(total / 3, rel=1e-10)


def test_softmax_with_one_caption_an_image_is_clips_symmetric_cross_entropy():
    image_BD, text_TD = make_features(16, 16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    logits_BB = 14.0 * image_BD @ text_TD.T
    labels_B = torch.arange(16)
    clip = (functional.cross_entropy(logits_BB, labels_B) + functional.cross_entropy(logits_BB.T, labels_B)) / 2
    loss = softmax_contrastive(image_BD, text_TD[order], labels_B + 100, order + 100, scale=14.0)
    torch.testing.assert_close(loss, clip, rtol=1e-12, atol=0)


def test_perfect_embeddings_have_no_loss_however_many_captions():
    group_T = torch.arange(4).repeat_interleave(5)
    loss = softmax_contrastive(torch.eye(4), torch.eye(4)[group_T], torch.arange(4), group_T, scale=100.0)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_hard_negatives_raise_the_loss_of_images_and_ask_for_no_image():
    image_BD, text_TD = make_features(4, 4)
    group = torch.arange(4)
    plain = softmax_contrastive(image_BD, text_TD, group, group, scale=5.0)
    negatives_ND = image_BD.clone()
    loss = softmax_contrastive(
        image_BD, torch.cat([text_TD, negatives_ND]), group, torch.cat([group, torch.full((4,), -1)]), scale=5.0
    )
    logits_BT = 5.0 * image_BD @ torch.cat([text_TD, negatives_ND]).T
    image_to_text = functional.cross_entropy(logits_BT, group)
    text_to_image = functional.cross_entropy(logits_BT[:, :4].T, group)
    torch.testing.assert_close(loss, (image_to_text + text_to_image) / 2)
    assert loss > plain


# Images of groups 4 and 2; captions 30 and 31 of group 4, 20 of group 2; two negatives of 20, one of 31.
NEGATIVES = {
    "group_B": torch.tensor([4, 2]),
    "group_T": torch.tensor([4, -1, 2, -1, 4, -1]),
    "caption_T": torch.tensor([31, 20, 20, 31, 30, 20]),
}


def softplus(x):
    return math.log(1 + math.exp(x))


def test_hard_negatives_are_held_against_their_own_captions_only_by_hand():
    image_BD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text_TD = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6], [0.8, -0.6], [0.0, 1.0], [0.0, -1.0]])
    loss = negatives_loss(image_BD, text_TD, **NEGATIVES, scale=5.0)
    # Image 4 with caption 31 has 0.6 and with its negative 0.8; image 2 with caption 20 has 0.6, with its two 0 and -1.
    assert loss.item() == pytest.approx((softplus(5 * 0.2) + softplus(5 * -0.6) + softplus(5 * -1.6)) / 3, rel=1e-6)


def test_without_hard_negatives_there_is_nothing_to_lose_but_a_way_for_gradients():
    image_BD, text_TD = (tensor.requires_grad_() for tensor in make_features(2, 2))
    group = torch.tensor([0, 1])
    scale = torch.tensor(3.0, requires_grad=True)
    loss = negatives_loss(image_BD, text_TD, group, group, caption_T=group, scale=scale)
    assert loss.item() == 0
    loss.backward()
    assert text_TD.grad is not None
    assert not text_TD.grad.any()


def test_hard_negatives_that_cannot_be_told_apart_from_their_captions_cost_ln_2():
    text_TD = make_features(2, 1)[1].expand(6, -1)
    assert negatives_loss(make_features(2, 1)[0], text_TD, **NEGATIVES, scale=50.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_texts_and_images_plays_no_part_for_hard_negatives(seed):
    image_BD, text_TD = make_features(2, 6)
    expected = negatives_loss(image_BD, text_TD, **NEGATIVES, scale=7.0)
    generator = torch.Generator().manual_seed(seed)
    texts, images = torch.randperm(6, generator=generator), torch.randperm(2, generator=generator)
    loss = negatives_loss(
        image_BD[images],
        text_TD[texts],
        NEGATIVES["group_B"][images],
        NEGATIVES["group_T"][texts],
        caption_T=NEGATIVES["caption_T"][texts],
        scale=7.0,
    )
    torch.testing.assert_close(loss, expected)


def test_of_several_images_of_a_group_one_is_asked_about_its_hard_negatives():
    image_BD, text_TD = make_features(2, 6)
    twice_BD = torch.cat([image_BD, -image_BD])
    groups = NEGATIVES | {"group_B": torch.tensor([4, 2, 4, 2])}
    expected = negatives_loss(image_BD, text_TD, **NEGATIVES, scale=7.0)
    torch.testing.assert_close(negatives_loss(twice_BD, text_TD, **groups, scale=7.0), expected)


def test_other_captions_and_images_learn_nothing_from_hard_negatives():
    image_BD, text_TD = (tensor.requires_grad_() for tensor in make_features(3, 6))
    groups = NEGATIVES | {"group_B": torch.tensor([4, 2, 9])}
    negatives_loss(image_BD, text_TD, **groups, scale=7.0).backward()
    assert image_BD.grad.any(dim=1).tolist() == [True, True, False]
    assert text_TD.grad.any(dim=1).tolist() == [True, True, True, True, False, True]  # no negative falsifies caption 30


def test_gradients_of_hard_negatives_agree_with_finite_differences():
    inputs = [tensor.requires_grad_() for tensor in (*make_features(2, 6, 4), torch.tensor(3.0, dtype=torch.float64))]

    def call(image_BD, text_TD, scale):
        return negatives_loss(image_BD, text_TD, **NEGATIVES, scale=scale)

    assert torch.autograd.gradcheck(call, inputs)


def test_hard_negatives_are_compared_in_fp32_under_bf16_autocast():
    image_BD, text_TD = make_features(2, 6, dtype=torch.float32)
    plain = negatives_loss(image_BD, text_TD, **NEGATIVES, scale=torch.tensor(50.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = negatives_loss(image_BD, text_TD, **NEGATIVES, scale=torch.tensor(50.0))
    assert torch.equal(plain, under_autocast)
    rounded = negatives_loss(image_BD.bfloat16(), text_TD.bfloat16(), **NEGATIVES, scale=50.0)
    assert rounded.dtype == torch.float32


@pytest.mark.parametrize("name", get_args(LossName))
def test_gradients_agree_with_finite_differences(name):
    image_BD, text_TD = make_features(3, 7, 4)
    scale, bias = torch.tensor([3.0, -1.0], dtype=torch.float64)
    inputs = [tensor.clone().requires_grad_() for tensor in (image_BD, text_TD, scale, bias)]

    def call(image_BD, text_TD, scale, bias):
        own_bias = bias if name == "sigmoid" else None
        return contrastive(image_BD, text_TD, GROUP_B, GROUP_T, scale=scale, bias=own_bias)

    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_extreme_logits_give_finite_losses_and_gradients(name):
    image_BD = torch.eye(3).requires_grad_()
    text_TD = -torch.eye(3)  # every positive is as far away as can be
    group = torch.arange(3)
    value = contrastive(image_BD, text_TD, group, group, scale=1e4, bias=0.0 if name == "sigmoid" else None)
    value.backward()
    # sigmoid: each image is certain of its one wrong answer, and undecided about two
    expected = {"softmax": 1e4 + math.log(2), "sigmoid": 1e4 + 2 * math.log(2)}[name]
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert image_BD.grad.isfinite().all()


def test_an_image_without_negatives_has_no_loss_and_no_gradient():
    image_BD, text_TD = (tensor.requires_grad_() for tensor in make_features(1, 3))
    loss = softmax_contrastive(image_BD, text_TD, torch.tensor([0]), torch.tensor([0, 0, 0]), scale=10.0)
    loss.backward()
    assert loss.item() == 0
    assert not image_BD.grad.any()
    assert not text_TD.grad.any()


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_logits_are_fp32_under_bf16_autocast(name):
    image_BD, text_TD = make_features(dtype=torch.float32)
    arguments = (image_BD, text_TD, GROUP_B, GROUP_T)
    bias = torch.tensor(-10.0) if name == "sigmoid" else None
    plain = contrastive(*arguments, scale=torch.tensor(50.0), bias=bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = contrastive(*arguments, scale=torch.tensor(50.0), bias=bias)
    assert torch.equal(plain, under_autocast)


def test_bf16_embeddings_are_multiplied_in_fp32():
    image_BD, text_TD = (tensor.bfloat16() for tensor in make_features())
    loss = softmax_contrastive(image_BD, text_TD, GROUP_B, GROUP_T, scale=50.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, softmax_contrastive(image_BD.float(), text_TD.float(), GROUP_B, GROUP_T, scale=50.0))


def test_distillation_is_the_mean_cosine_distance_and_spares_the_teacher():
    student_BD = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    teacher_BD = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = distillation(student_BD, teacher_BD)
    assert loss.item() == pytest.approx((0 + 1 + 2) / 3)
    loss.backward()
    assert student_BD.grad[1].any()
    assert teacher_BD.grad is None


def test_distillation_refuses_a_teacher_of_another_dimension():
    with pytest.raises(TrainingError, match=r"\(3, 2\).*\(3, 4\).*towers.dim"):
        distillation(torch.ones(3, 2), torch.ones(3, 4))


def test_chance_is_ln_of_the_batch_for_one_caption_an_image():
    assert chance_loss("softmax", torch.arange(64), torch.arange(64)) == pytest.approx(math.log(64))


def test_chance_is_the_softmax_loss_of_collapsed_embeddings():
    image_BD, text_TD = torch.ones(3, 1), torch.ones(7, 1)
    loss = softmax_contrastive(image_BD, text_TD, GROUP_B, GROUP_T, scale=20.0)
    assert chance_loss("softmax", GROUP_B, GROUP_T) == pytest.approx(float(loss), rel=1e-6)


def test_chance_is_the_least_sigmoid_loss_of_collapsed_embeddings():
    losses = [
        float(sigmoid_contrastive(torch.ones(3, 1), torch.ones(7, 1), GROUP_B, GROUP_T, scale=1.0, bias=bias))
        for bias in torch.linspace(-6, 4, 1001).tolist()
    ]
    assert chance_loss("sigmoid", GROUP_B, GROUP_T) == pytest.approx(min(losses), rel=1e-4)


def test_chance_of_a_single_pair_is_zero_for_both_losses():
    for name in ("softmax", "sigmoid"):
        assert chance_loss(name, torch.tensor([0]), torch.tensor([0])) == pytest.approx(0)


@pytest.mark.parametrize("group_B", [torch.tensor([-1, -1, -1]), torch.tensor([20, 21, 22])])
def test_a_batch_without_a_positive_pair_is_refused(group_B):
    image_BD, text_TD = make_features()
    with pytest.raises(TrainingError, match="None of the 7 texts belongs to any of the 3 images"):
        softmax_contrastive(image_BD, text_TD, group_B, GROUP_T, scale=1.0)
    with pytest.raises(TrainingError, match="None of the 7 texts"):
        sigmoid_contrastive(image_BD, text_TD, group_B, GROUP_T, scale=1.0, bias=0.0)


def test_groups_that_do_not_fit_the_embeddings_are_refused():
    image_BD, text_TD = make_features()
    with pytest.raises(TrainingError, match="3 images have 3 groups and 7 texts 6"):
        softmax_contrastive(image_BD, text_TD, GROUP_B, GROUP_T[:6], scale=1.0)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_texts_of_another_set_are_no_negatives(name):
    image_BD, text_TD = make_features(4, 4)
    group = torch.arange(4)
    of_set = torch.tensor([0, 0, 1, 1])
    known_BT = of_set[:, None] == of_set[None, :]
    loss, bias = contrastive, -1.0 if name == "sigmoid" else None
    mixed = loss(image_BD, text_TD, group, group, scale=5.0, bias=bias, known_BT=known_BT)
    apart = [loss(image_BD[p], text_TD[p], group[p], group[p], scale=5.0, bias=bias) for p in (slice(2), slice(2, 4))]
    torch.testing.assert_close(mixed, sum(apart) / 2)
    chances = [chance_loss(name, group[:2], group[:2]), chance_loss(name, group, group, known_BT=known_BT)]
    assert chances[0] == pytest.approx(chances[1])
    assert chances[1] < chance_loss(name, group, group)


def test_an_image_that_is_alone_in_its_set_has_no_loss_and_a_finite_gradient():
    image_BD, text_TD = make_features(3, 3)
    image_BD.requires_grad_()
    known_BT = torch.eye(3, dtype=torch.bool)
    loss = softmax_contrastive(image_BD, text_TD, torch.arange(3), torch.arange(3), scale=5.0, known_BT=known_BT)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(image_BD.grad, torch.zeros_like(image_BD))


@pytest.mark.parametrize("captions", [1, 2])
def test_the_loss_on_val_pairs_is_that_of_training_batches(captions):
    image_BD, text_TD = make_features(7, 21, dtype=torch.float32)
    owner_T = np.repeat(np.arange(7), 3)
    model = torch.nn.Module()
    model.logit_scale = torch.nn.Parameter(torch.tensor(math.log(5.0)))
    config = TrainConfig(recipe="t", data="d", batch_size=3, captions_per_image=captions)
    objective = Objective(config, SimpleNamespace(model=model, dim=6), teacher_dim=None, words_count=0)  # type: ignore[arg-type]
    found = objective.measure(image_BD.numpy(), text_TD.numpy(), owner_T)
    losses = []
    for batch in (slice(0, 3), slice(3, 6)):  # the seventh image fills no batch
        if captions == 1:
            logits_BB = 5 * image_BD[batch] @ text_TD.view(7, 3, 6)[batch, 0].T
            both = [functional.cross_entropy(rows, torch.arange(3)) for rows in (logits_BB, logits_BB.T)]
            losses.append(float(sum(both)) / 2)
        else:
            texts, groups = text_TD.view(7, 3, 6)[batch, :2].reshape(6, 6), torch.arange(3).repeat_interleave(2)
            losses.append(float(softmax_contrastive(image_BD[batch], texts, torch.arange(3), groups, scale=5.0)))
    assert found["loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)
    if captions == 1:
        assert found["chance_loss"] == pytest.approx(math.log(3))
    whole = objective.measure(image_BD[:2].numpy(), text_TD[:6].numpy(), owner_T[:6])
    assert math.isfinite(whole["loss"])  # fewer images than a batch are one batch
