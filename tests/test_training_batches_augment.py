import pytest
import torch

from sightline.lab.training.batches import Augmentation, augment, draw_changes

NOTHING = Augmentation(crop_min=1.0, aspect_jitter=1.0, flip=False, colour_jitter=0.0)
EVERYTHING = Augmentation(crop_min=0.5, aspect_jitter=2.0, flip=True, colour_jitter=0.4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, side=16, seed=0):
    return torch.randint(0, 256, (n, side, side, 3), generator=seeded(seed), dtype=torch.uint8)


def ramp(n, side=16):
    """Brighter to the right: (n, S, S, 3)."""
    return torch.arange(side, dtype=torch.uint8).mul(10)[None, None, :, None].expand(n, side, side, 3)


def changed(pixels, augmentation, *, size_px=16, seed=0):
    return augment(pixels, size_px, augmentation, draw_changes(len(pixels), augmentation, seeded(seed)))


def sides_and_centres(n, augmentation):
    """Width, height and centre of each crop, as parts of a picture from -1 to 1."""
    affine_B23 = draw_changes(n, augmentation, seeded()).affine_B23
    assert not affine_B23[:, 0, 1].any()
    assert not affine_B23[:, 1, 0].any()  # nothing is turned or sheared
    return affine_B23[:, [0, 1], [0, 1]].T, affine_B23[:, :, 2].T


def test_no_change_gives_the_image_back_exactly():
    pixels = images()
    assert torch.equal(changed(pixels, NOTHING), pixels.permute(0, 3, 1, 2).float() / 255)


def test_no_change_to_another_size_is_the_whole_image_with_antialiasing():
    pixels = images(side=32)
    smaller = changed(pixels, NOTHING, size_px=8)
    assert smaller.shape == (6, 3, 8, 8)
    expected = pixels.permute(0, 3, 1, 2).float().div(255)
    torch.testing.assert_close(smaller.mean(dim=(2, 3)), expected.mean(dim=(2, 3)), atol=0.02, rtol=0)
    assert smaller.std() < 0.6 * expected.std()  # each pixel is a mean of many, not one of them


def test_mirroring_alone_gives_the_image_or_its_mirror_image():
    pixels = images(64)
    plain = pixels.permute(0, 3, 1, 2).float() / 255
    image_B3SS = changed(pixels, Augmentation(crop_min=1.0, flip=True, colour_jitter=0.0))
    same, mirrored = ((image_B3SS - other).abs().amax(dim=(1, 2, 3)) < 1e-5 for other in (plain, plain.flip(dims=(3,))))
    assert (same ^ mirrored).all()
    assert 20 < int(mirrored.sum()) < 44


def test_without_flip_left_never_becomes_right():
    augmentation = Augmentation(crop_min=0.4, aspect_jitter=2.0, flip=False, colour_jitter=0.0)
    image_B3SS = changed(ramp(200), augmentation)
    assert (image_B3SS.diff(dim=3) > -1e-6).all()
    (width_B, _), _ = sides_and_centres(200, augmentation)
    assert (width_B > 0).all()
    assert not (changed(ramp(200), EVERYTHING).diff(dim=3) > -1e-6).all()


@pytest.mark.parametrize("flip", [False, True])
def test_crops_stay_inside_the_image(flip):
    augmentation = Augmentation(crop_min=0.3, aspect_jitter=3.0, flip=flip)
    sides_2B, centres_2B = sides_and_centres(2000, augmentation)
    assert (sides_2B.abs() + centres_2B.abs()).max() <= 1 + 1e-6
    assert (sides_2B.abs() <= 1).all()


def test_crops_lie_anywhere_inside():
    _, centres_2B = sides_and_centres(2000, Augmentation(crop_min=0.5))
    assert (centres_2B.mean(dim=1).abs() < 0.02).all()
    assert (centres_2B.amax(dim=1) > 0.4).all()
    assert (centres_2B.amin(dim=1) < -0.4).all()


def test_a_crops_side_is_uniform_from_its_least_to_the_whole():
    (width_B, height_B), _ = sides_and_centres(4000, Augmentation(crop_min=0.6, flip=False))
    torch.testing.assert_close(width_B, height_B)
    assert width_B.min() >= 0.6
    assert width_B.min() < 0.605
    assert width_B.max() > 0.995
    assert width_B.mean() == pytest.approx(0.8, abs=0.01)


def test_the_aspect_ratio_stays_within_its_bounds_and_reaches_them_both_ways():
    (width_B, height_B), _ = sides_and_centres(4000, Augmentation(crop_min=0.5, aspect_jitter=2.0, flip=False))
    ratio_B = width_B / height_B
    assert ratio_B.min() >= 0.5 - 1e-6
    assert ratio_B.max() <= 2 + 1e-6
    assert ratio_B.min() < 0.51
    assert ratio_B.max() > 1.96
    assert ratio_B.log().mean().abs() < 0.02
    (width_B, height_B), _ = sides_and_centres(500, Augmentation(crop_min=0.5, aspect_jitter=1.0, flip=False))
    assert torch.equal(width_B, height_B)


def test_a_crop_shows_the_part_of_the_image_that_lies_under_it():
    augmentation = Augmentation(crop_min=0.5, flip=False, colour_jitter=0.0)
    (width_B, _), (x_B, _) = sides_and_centres(100, augmentation)
    image_B3SS = changed(ramp(100), augmentation)
    # The picture's pixels have their middles at 0.5 to 15.5 of 16, where the ramp has 0 to 150 of 255.
    for edge, sign in ((0, -1), (-1, 1)):
        at_B = (1 + x_B + sign * width_B * 15 / 16) * 8 - 0.5
        torch.testing.assert_close(image_B3SS[:, 0, 0, edge], at_B.clamp(0, 15) * 10 / 255, atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_images_and_another_seed_others():
    first, again, other = (changed(images(), EVERYTHING, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def test_parts_of_the_changes_are_those_of_the_whole_batch():
    pixels = images(8)
    changes = draw_changes(8, EVERYTHING, seeded())
    whole = augment(pixels, 12, EVERYTHING, changes)
    parts = [augment(pixels[rows], 12, EVERYTHING, changes.part(rows)) for rows in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_colours_change_but_stay_colours():
    augmentation = Augmentation(crop_min=1.0, flip=False, colour_jitter=0.5)
    assert not augmentation.changes_place
    image_B3SS = changed(images(50), augmentation)
    assert image_B3SS.min() >= 0
    assert image_B3SS.max() <= 1
    grey = torch.full((50, 4, 4, 3), 128, dtype=torch.uint8)
    recoloured = changed(grey, augmentation, size_px=4)
    brightness_B = draw_changes(50, augmentation, seeded()).colour_3B[0]
    # On plain grey contrast and saturation have nothing to change.
    expected = (brightness_B * 128 / 255).clamp(0, 1)[:, None, None, None].expand(50, 3, 4, 4)
    torch.testing.assert_close(recoloured, expected)
    assert brightness_B.min() >= 0.5
    assert brightness_B.max() <= 1.5


def test_saturation_of_zero_would_be_grey_and_contrast_of_zero_plain():
    pixels = images(2)
    changes = draw_changes(2, EVERYTHING, seeded())
    only_colour = Augmentation(crop_min=1.0, flip=False, colour_jitter=0.4)
    changes.colour_3B[:] = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    grey, plain = augment(pixels, 16, only_colour, changes)
    assert (grey - grey[:1]).abs().max() < 1e-6
    assert grey.std() > 0.1
    assert plain.std() < 1e-6
