import pytest

from sightline.lab.data.scenes.grammar import Mention, ObjectKind, Scene, SceneObject, Statement, is_true, may_be_true

SOLID = {"size": "medium", "texture": "solid"}


def thing(colour, shape, x, y, **other):
    kind = ObjectKind(**{**SOLID, **other}, colour=colour, shape=shape)
    return SceneObject(kind, x, y, 0.1, 0.0, 0, (0, 0, 0))


def scene_of(*things):
    return Scene(objects=things, ground=(128, 128, 128), noise_seed=None)


def one(place=None, **words):
    return Mention(ObjectKind(**words), place)


RED_CIRCLE = one(colour="red", shape="circle")
BLUE_SQUARE = one(colour="blue", shape="square")
SCENE = scene_of(thing("red", "circle", 0.2, 0.2), thing("blue", "square", 0.7, 0.3))


def answers(statement, scene=SCENE):
    return is_true(statement, scene), may_be_true(statement, scene)


YES, PERHAPS, NO = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (Statement((RED_CIRCLE,)), YES),
        (Statement((RED_CIRCLE, BLUE_SQUARE)), YES),
        (Statement((one(colour="red", shape="square"),)), NO),
        (Statement((RED_CIRCLE, RED_CIRCLE)), NO),
        (Statement((RED_CIRCLE, one(shape="circle"))), NO),
        (Statement((RED_CIRCLE, BLUE_SQUARE), (("left", 0, 1),)), YES),
        (Statement((RED_CIRCLE, BLUE_SQUARE), (("right", 1, 0),)), YES),
        (Statement((RED_CIRCLE, BLUE_SQUARE), (("right", 0, 1),)), NO),
        (Statement((BLUE_SQUARE, RED_CIRCLE), (("right", 0, 1),)), YES),
        (Statement((BLUE_SQUARE, RED_CIRCLE), (("left", 0, 1),)), NO),
        (Statement((RED_CIRCLE, BLUE_SQUARE), (("above", 0, 1),)), PERHAPS),
        (Statement((one(), one()), (("left", 0, 1),)), YES),
        (Statement((one(colour="red", shape="circle", place="top left"),)), YES),
        (Statement((one(colour="red", shape="circle", place="right"),)), NO),
        (Statement((one(colour="blue", shape="square", place="top right"),)), YES),
        (Statement((one(colour="blue", shape="square", place="middle"),)), PERHAPS),
        (Statement((one(colour="red", shape="circle", place="middle"),)), NO),
        (Statement((RED_CIRCLE,), counts=((2, ObjectKind()),)), YES),
        (Statement((RED_CIRCLE,), counts=((3, ObjectKind()),)), NO),
        (Statement((RED_CIRCLE,), counts=((2, ObjectKind(colour="red")),)), NO),
        (Statement((RED_CIRCLE,), absent=(ObjectKind(shape="heart"),)), YES),
        (Statement((RED_CIRCLE,), absent=(ObjectKind(colour="blue"),)), NO),
    ],
)
def test_truth_is_decided_on_the_scene(statement, expected):
    assert answers(statement) == expected


def test_sides_are_soft_between_their_edge_and_the_middle():
    on_the_left = Statement((one(colour="red", shape="circle", place="left"),))
    found = [answers(on_the_left, scene_of(thing("red", "circle", x, 0.5))) for x in (0.35, 0.45, 0.55)]
    assert found == [YES, PERHAPS, NO]


def test_a_relation_needs_a_margin_and_not_too_steep_a_slant():
    beside = Statement((RED_CIRCLE, BLUE_SQUARE), (("left", 0, 1),))

    def with_offset(x, y):
        return answers(beside, scene_of(thing("red", "circle", 0.4, 0.3), thing("blue", "square", 0.4 + x, 0.3 + y)))

    assert with_offset(0.17, 0.2) == YES
    assert with_offset(0.17, 0.3) == PERHAPS
    assert with_offset(0.1, 0.0) == PERHAPS
    assert with_offset(-0.01, 0.3) == NO


def test_mentions_are_matched_in_whatever_way_makes_them_true():
    scene = scene_of(
        thing("red", "circle", 0.8, 0.2), thing("red", "heart", 0.2, 0.2), thing("blue", "heart", 0.5, 0.8)
    )
    assert is_true(Statement((one(colour="red"), one(colour="red")), (("left", 0, 1),)), scene)
    assert is_true(Statement((one(shape="heart"), one(colour="red"), one())), scene)
    assert not may_be_true(Statement((one(shape="heart"), one(shape="heart"), one(shape="heart"))), scene)


def test_different_things_are_told_apart_even_if_they_look_the_same():
    twins = scene_of(thing("red", "circle", 0.2, 0.2), thing("red", "circle", 0.7, 0.3))
    assert is_true(Statement((RED_CIRCLE, RED_CIRCLE), (("left", 0, 1),)), twins)
