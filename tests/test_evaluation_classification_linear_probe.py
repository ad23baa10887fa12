import sys

import numpy as np
import pytest

from captioning_fakes import FakeEncoder
from evaluation_fakes import dataset, pair, random_units
from sightline.errors import InputError
from sightline.lab.evaluation.classification import (
    LinearProbeConfig,
    LinearProbeEvaluator,
    ProbeConfig,
    fit_probe,
    hold_out,
    rank_by_probe,
)
from sightline.lab.evaluation.results import Bootstrap


@pytest.fixture
def needs_sklearn():
    pytest.importorskip("sklearn")


def blobs(rng, n, *, n_classes=3, noise=0.1):
    """Vectors around one direction a class."""
    centres = random_units(np.random.default_rng(7), n_classes)
    labels = np.arange(n) % n_classes
    return (centres[labels] + rng.normal(0, noise, (n, 8))).astype(np.float32), labels


@pytest.mark.usefixtures("needs_sklearn")
@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_can_be_separated_is_separated(rng, n_classes):
    probe = fit_probe(*blobs(rng, 90, n_classes=n_classes), n_classes=n_classes)
    metrics = rank_by_probe(probe, *blobs(rng, 60, n_classes=n_classes)).metrics()
    assert metrics["acc1"] > 0.95
    assert probe.converged
    assert probe.held_out_acc1 > 0.9


@pytest.mark.usefixtures("needs_sklearn")
def test_labels_at_random_are_not_learnt(rng):
    images, labels = random_units(rng, 300), rng.integers(0, 3, 300)
    metrics = rank_by_probe(fit_probe(images, labels, n_classes=3), random_units(rng, 300), labels).metrics()
    assert metrics["acc1"] == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.usefixtures("needs_sklearn")
def test_logits_are_those_of_the_library(rng):
    from sklearn.linear_model import LogisticRegression

    images, labels = blobs(rng, 60, noise=0.5)
    probe = fit_probe(images, labels, n_classes=3, config=ProbeConfig(cs=(1.0,), max_iterations=1000))
    assert probe.held_out_acc1 is None
    scaled = (images - probe.mean_D) / probe.scale
    reference = LogisticRegression(C=1.0, max_iter=1000).fit(scaled, labels)
    assert probe.logits(images) == pytest.approx(reference.decision_function(scaled), abs=0.02)


@pytest.mark.usefixtures("needs_sklearn")
def test_the_c_that_does_best_on_held_out_images_is_chosen(rng):
    # nearly all dimensions are noise, so weak regularisation learns the noise
    images, labels = blobs(rng, 60, n_classes=2, noise=0.3)
    images = np.hstack([images, rng.normal(0, 1, (60, 200))]).astype(np.float32)
    chosen = fit_probe(images, labels, n_classes=2, config=ProbeConfig(cs=(1e-4, 1e-2, 1, 100)))
    held = hold_out(labels, share=0.2, seed=0)
    scaled = (images - chosen.mean_D) / chosen.scale
    reached = {}
    for c in (1e-4, 1e-2, 1, 100):
        from sklearn.linear_model import LogisticRegression

        reached[c] = (
            LogisticRegression(C=c, max_iter=500).fit(scaled[~held], labels[~held]).score(scaled[held], labels[held])
        )
    assert chosen.held_out_acc1 == pytest.approx(reached[chosen.c])


@pytest.mark.usefixtures("needs_sklearn")
@pytest.mark.parametrize("shown", [(0, 2), (0, 1, 3)])
def test_a_class_that_was_never_shown_is_never_right(rng, shown):
    images, labels = blobs(rng, 120, n_classes=4)
    learnt = np.isin(labels, shown)
    probe = fit_probe(images[learnt], labels[learnt], n_classes=4)
    assert rank_by_probe(probe, images[learnt], labels[learnt]).metrics()["acc1"] > 0.95
    assert rank_by_probe(probe, images[~learnt], labels[~learnt]).metrics()["acc1"] == 0


@pytest.mark.usefixtures("needs_sklearn")
def test_too_few_iterations_are_told(rng):
    probe = fit_probe(*blobs(rng, 90, noise=1), n_classes=3, config=ProbeConfig(cs=(100.0,), max_iterations=1))
    assert not probe.converged


def test_a_share_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2, 3], [10, 5, 2, 1])
    held = hold_out(labels, share=0.2, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [2, 1, 1, 0]
    assert held.tolist() == hold_out(labels, share=0.2, seed=0).tolist()
    assert any(held.tolist() != hold_out(labels, share=0.2, seed=seed).tolist() for seed in range(1, 5))
    assert (~hold_out(labels, share=0.99, seed=0)).sum() == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cs": ()}, "cs must be"),
        ({"cs": (1.0, 0.1)}, "ascending"),
        ({"cs": (0.0,)}, "positive"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ProbeConfig(**settings)


def test_training_images_that_teach_nothing_are_refused(rng):
    with pytest.raises(InputError, match="at least two classes"):
        fit_probe(random_units(rng, 5), np.zeros(5, int), n_classes=2)
    with pytest.raises(InputError, match="No class has two training pictures"):
        fit_probe(random_units(rng, 3), np.arange(3), n_classes=3)


def test_without_the_library_the_error_names_it(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        fit_probe(*blobs(rng, 30), n_classes=3)


NAMES = (("red",), ("blue",))


def coloured(split, n, *, names=NAMES, name="fake:colours"):
    pairs = [pair(f"{split}{i}", ("red", "blue")[i % 2], label=i % 2) for i in range(n)]
    return dataset(*pairs, pair(f"{split}x", "broken", label=0), split=split, class_names=names, name=name)


@pytest.mark.usefixtures("needs_sklearn")
def test_the_evaluator_learns_on_train_and_measures_on_val():
    config = LinearProbeConfig(bootstrap=Bootstrap(resamples=20))
    result = LinearProbeEvaluator(config).run(FakeEncoder(), coloured("val", 6), train=coloured("train", 12))
    assert result.metrics == {"acc1": 1, "mean_per_class_recall": 1}
    assert (result.split, result.n_images, result.n_texts) == ("val", 6, 0)
    assert result.details["n_train"] == 12
    assert result.details["C"] in config.probe.cs
    assert [problem.id for problem in result.problems] == ["trainx", "valx"]


@pytest.mark.usefixtures("needs_sklearn")
def test_a_probe_may_learn_from_features_before_the_projection():
    class WithFeatures(FakeEncoder):
        def encode_features(self, pixels_BHW3):
            return np.repeat(self.encode_images(pixels_BHW3), 2, axis=1)

    evaluator = LinearProbeEvaluator(LinearProbeConfig(features="pooled", bootstrap=Bootstrap(resamples=0)))
    result = evaluator.run(WithFeatures(), coloured("val", 6), train=coloured("train", 12))
    assert (result.metrics["acc1"], result.details["features"]) == (1, "pooled")
    with pytest.raises(InputError, match="gives no features before a projection"):
        evaluator.run(FakeEncoder(), coloured("val", 6), train=coloured("train", 12))


def test_the_evaluator_refuses_what_is_no_test():
    evaluator = LinearProbeEvaluator()
    with pytest.raises(InputError, match="learns on the split val can't be measured on it"):
        evaluator.run(FakeEncoder(), coloured("val", 6), train=coloured("val", 6))
    with pytest.raises(InputError, match="have different classes"):
        evaluator.run(FakeEncoder(), coloured("val", 6), train=coloured("train", 6, names=(("red",), ("green",))))
    with pytest.raises(InputError, match="has no classes"):
        evaluator.run(FakeEncoder(), coloured("val", 6), train=dataset(pair("a", "red", "red"), split="train"))
    with pytest.raises(InputError, match="batch_size"):
        LinearProbeConfig(batch_size=0)
