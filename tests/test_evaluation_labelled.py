import pytest

from captioning_fakes import paint
from evaluation_fakes import dataset, pair
from sightline.errors import InputError
from sightline.lab.evaluation.labelled import load_labelled, name_classes, require_labels


@pytest.fixture
def pets(tmp_path):
    """Class folders without splits."""
    for file in ("maine_coon/1.jpg", "maine_coon/deep/2.jpg", "dog/1.jpg", ".hidden/x.jpg"):
        paint(tmp_path / "pets" / file, "red")
    (tmp_path / "pets" / "read me.txt").write_text("notes")
    return tmp_path / "pets"


@pytest.fixture
def with_splits(tmp_path):
    for file in ("train/cat/1.jpg", "train/dog/1.jpg", "validation/dog/2.jpg"):
        paint(tmp_path / "split" / file, "red")
    return tmp_path / "split"


@pytest.mark.parametrize("prefix", ["", "classes:"])
def test_folders_are_classes(pets, prefix):
    found = load_labelled(f"{prefix}{pets}", split="train")
    assert found.class_names == (("dog",), ("maine coon",))
    assert [(p.id, p.label) for p in found] == [("dog/1.jpg", 0), ("maine_coon/1.jpg", 1), ("maine_coon/deep/2.jpg", 1)]
    assert found.pairs[0].image.read().shape == (32, 32, 3)
    assert found.name == f"classes:{pets}"


def test_folders_of_splits_share_their_classes(with_splits):
    val, train = (load_labelled(str(with_splits), split=split) for split in ("val", "train"))
    assert val.class_names == train.class_names == (("cat",), ("dog",))
    assert [(p.id, p.label) for p in val] == [("dog/2.jpg", 1)]
    assert len(train) == 2
    assert train.fingerprint != val.fingerprint


def test_a_split_that_is_not_there_is_refused_with_those_that_are(pets, with_splits):
    with pytest.raises(InputError, match="has no split test; it has: train"):
        load_labelled(str(pets), split="test")
    with pytest.raises(InputError, match="has no split test; it has: train, val"):
        load_labelled(str(with_splits), split="test")


def test_a_class_may_be_called_train(tmp_path):
    for file in ("train/1.jpg", "boat/1.jpg"):
        paint(tmp_path / file, "red")
    assert load_labelled(f"classes:{tmp_path}", split="train").class_names == (("boat",), ("train",))


def test_broken_class_folders_are_refused(tmp_path, pets):
    with pytest.raises(InputError, match="is no folder"):
        load_labelled(f"classes:{tmp_path / 'none'}", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no folders"):
        load_labelled(f"classes:{tmp_path / 'empty'}", split="train")
    paint(pets / "stray.jpg", "red")
    with pytest.raises(InputError, match=r"stray.jpg lies beside the classes' folders"):
        load_labelled(f"classes:{pets}", split="train")


def test_a_limit_takes_some_by_seed(pets):
    some = [load_labelled(str(pets), split="train", limit=2, seed=seed) for seed in range(8)]
    assert {len(part) for part in some} == {2}
    assert len({part.fingerprint for part in some}) > 1
    assert [p.id for p in some[0]] == [p.id for p in load_labelled(str(pets), split="train", limit=2)]
    with pytest.raises(InputError, match="at least 1"):
        load_labelled(str(pets), split="train", limit=0)


def write_list(path, *lines):
    paint(path.parent / "a.jpg", "red")
    paint(path.parent / "b, c.jpg", "blue")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_list_has_files_and_names(tmp_path):
    path = write_list(
        tmp_path / "list.csv", "filepath,label,split", "a.jpg,dog,val", '"b, c.jpg",cat,val', "a.jpg,cow,train"
    )
    for address in (str(path), f"labels:{path}"):
        found = load_labelled(address, split="val")
        assert [(p.id, p.label) for p in found] == [("a.jpg", 2), ("b, c.jpg", 0)]
        assert found.class_names == (("cat",), ("cow",), ("dog",))


def test_a_list_may_have_numbers_that_a_file_names(tmp_path):
    path = write_list(tmp_path / "list.tsv", "label\tfilepath", "10\ta.jpg", "2\tb, c.jpg")
    found = load_labelled(str(path), split=None)
    assert [found.class_names[p.label] for p in found] == [("10",), ("2",)]
    assert len(found.class_names) == 2
    (tmp_path / "names.txt").write_text("\n".join(f"thing {n}, synonym" for n in range(11)))
    named = load_labelled(str(path), split=None, classes=tmp_path / "names.txt")
    assert named.class_names[10] == ("thing 10", "synonym")
    assert [p.label for p in named] == [10, 2]
    (tmp_path / "names.txt").write_text("\n".join(f"thing {n}" for n in range(1, 11)))  # so they count from 1
    assert [p.label for p in load_labelled(str(path), split=None, classes=tmp_path / "names.txt")] == [9, 1]
    (tmp_path / "names.txt").write_text("dog\ncat")  # no numbers of lines, so in order
    assert load_labelled(str(path), split=None, classes=tmp_path / "names.txt").class_names == (("dog",), ("cat",))
    (tmp_path / "names.txt").write_text("dog\ncat\ncow")
    with pytest.raises(InputError, match="has 3 lines, but there are 2 classes"):
        load_labelled(str(path), split=None, classes=tmp_path / "names.txt")


def test_labels_that_are_ids_make_as_many_classes_as_occur(tmp_path):
    path = write_list(tmp_path / "list.csv", "filepath,label", "a.jpg,208561", '"b, c.jpg",208564', "a.jpg,0208561")
    assert load_labelled(str(path), split="train").class_names == (("208561",), ("208564",))


def test_paths_may_be_absolute(tmp_path):
    path = write_list(tmp_path / "list.csv", "filepath,label", f"{tmp_path / 'a.jpg'},dog")
    assert load_labelled(str(path), split="train")[0].image.read().shape == (32, 32, 3)


def test_classes_of_one_name_are_told(tmp_path, caplog):
    path = write_list(tmp_path / "list.csv", "filepath,label", "a.jpg,0", "a.jpg,1")
    (tmp_path / "names.txt").write_text("dog\ndog")
    load_labelled(str(path), split="train", classes=tmp_path / "names.txt")
    assert "several classes are called dog" in caplog.text


def test_without_splits_everything_is_measured_and_a_probe_holds_some_out(pets):
    paint(pets / "dog" / "3.jpg", "blue")
    assert len(load_labelled(str(pets), split=None)) == len(load_labelled(str(pets), split="all")) == 4
    train, val = (load_labelled(str(pets), split=split) for split in ("train", "val"))
    assert sorted(p.id for p in [*train, *val]) == [p.id for p in load_labelled(str(pets), split=None)]
    assert val.pairs


def test_the_split_that_is_measured_is_val(with_splits):
    assert load_labelled(str(with_splits), split=None).split == "val"
    with pytest.raises(InputError, match="has the splits train, val; --split all"):
        load_labelled(str(with_splits), split="all")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["filepath,title", "a.jpg,x"], ":1: columns filepath and label were expected; these are filepath, title"),
        (["filepath,label", "a.jpg"], ":2: 1 cells where the header has 2"),
        (["filepath,label", "a.jpg,dog", "a.jpg, "], ":3: the label is empty"),
        (["filepath,label", "../a.jpg,dog"], ":2: .* leads out of its folder"),
        (["filepath,label,split", "a.jpg,dog,later"], ":2: 'later' is no split"),
        (["filepath,label", "z.jpg,dog"], "1 of 1 images that .* are not in"),
    ],
)
def test_a_broken_list_is_refused_with_its_line(tmp_path, lines, message):
    path = write_list(tmp_path / "list.csv", *lines)
    with pytest.raises(InputError, match=message):
        load_labelled(f"labels:{path}", split="train")


CLASSES = dataset(pair("x", "red", label=0), class_names=(("n01",), ("n02_b",)))


def named(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    return name_classes(CLASSES, tmp_path / "names.txt").class_names


def test_names_come_in_order_or_by_the_name_of_the_folder(tmp_path):
    assert named(tmp_path, "goldfish, carp\nshark\n") == (("goldfish", "carp"), ("shark",))
    assert named(tmp_path, "n02 b\tshark\nn01\tgoldfish, carp\nn99\tunused\n") == (("goldfish", "carp"), ("shark",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("goldfish\n", "names 1 of 2 classes; missing: n02_b"),
        ("a\nb\nc\n", "has 3 lines, but there are 2 classes"),
        ("n01\ta\nb\n", ":2: either every line begins with a class and a tab, or none"),
        ("a\n, ,\n", ":2: a name was expected"),
    ],
)
def test_names_that_do_not_match_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        named(tmp_path, text)


def test_labels_must_be_there_and_in_range():
    assert require_labels(CLASSES) is CLASSES
    for label in (None, 2, -1):
        wrong = dataset(pair("x", "red", label=label), class_names=(("a",), ("b",)))
        with pytest.raises(InputError, match=f"x has the label {label}; classes are 0 to 1"):
            require_labels(wrong)


def test_other_addresses_are_those_of_data_sets(tmp_path):
    paint(tmp_path / "folder" / "a.jpg", "red")
    (tmp_path / "folder" / "a.txt").write_text("a red square")
    with pytest.raises(InputError, match=r"has no classes\. Give a folder with a folder for each class"):
        load_labelled(f"folder:{tmp_path / 'folder'}", split="train")
    (tmp_path / "names.txt").write_text("a\n")
    with pytest.raises(InputError, match="has no classes"):
        load_labelled(f"folder:{tmp_path / 'folder'}", split="train", classes=tmp_path / "names.txt")
    with pytest.raises(InputError, match="no split 'dev'"):
        load_labelled("scenes", split="dev")
