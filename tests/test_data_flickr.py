import json
from collections import Counter

import pytest

from conftest import SHARED_DATA
from sightline.errors import InputError
from sightline.lab.data.flickr import READERS

FLICKR8K, FLICKR30K = READERS


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_karpathy(path, *images):
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": []} for text in texts]}
        for name, split, *texts in images
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"dataset": "flickr8k", "images": entries}))


def read(reader, folder, split="train"):
    return {pair.id: list(pair.captions) for pair in reader.load(folder, split=split)}


def test_kaggles_csv_is_split_at_the_first_comma_and_loses_only_csv_quotes(tmp_path):
    fill(tmp_path / "Images", "a.jpg", "b.jpg")
    write(
        tmp_path / "captions.txt",
        "image,caption",
        "a.jpg,A dog .",
        'a.jpg,"A dog , a red ball"',
        "a.jpg,A dog , unquoted",
        'b.jpg,"A sign says ""stop"" , twice"',
        'b.jpg,"Stop" and "go"',
    )
    dataset = FLICKR8K.load(tmp_path, split="train")
    assert [pair.captions for pair in dataset] == [
        ("A dog .", "A dog , a red ball", "A dog , unquoted"),
        ('A sign says "stop" , twice', '"Stop" and "go"'),
    ]
    assert dataset[0].image.path == tmp_path / "Images" / "a.jpg"  # type: ignore[attr-defined]
    assert dataset.name == f"flickr8k:{tmp_path}"
    assert FLICKR8K.splits(tmp_path) == ("train",)


def test_the_publishers_layout_with_lists_of_splits(tmp_path):
    fill(tmp_path / "Flicker8k_Dataset", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    text = tmp_path / "Flickr8k_text"
    write(text / "Flickr8k.token.txt", *(f"{name}.jpg#{n}\t{name} {n} , #1\ttab" for name in "abcde" for n in range(2)))
    write(text / "Flickr_8k.trainImages.txt", "b.jpg", "a.jpg")
    write(text / "Flickr_8k.devImages.txt", "c.jpg")
    write(text / "Flickr_8k.testImages.txt", "d.jpg")
    assert read(FLICKR8K, tmp_path) == {
        "a.jpg": ["a 0 , #1\ttab", "a 1 , #1\ttab"],
        "b.jpg": ["b 0 , #1\ttab", "b 1 , #1\ttab"],
    }
    assert list(read(FLICKR8K, tmp_path, "val")) == ["c.jpg"]
    assert list(read(FLICKR8K, tmp_path, "test")) == ["d.jpg"]
    assert FLICKR8K.splits(tmp_path) == ("train", "val", "test")


def test_the_image_that_the_publisher_never_published_is_left_out(tmp_path):
    fill(tmp_path / "Flicker8k_Dataset", "a.jpg")
    write(tmp_path / "Flickr8k.token.txt", "a.jpg#0\tx", "2258277193_586949ec62.jpg.1#0\tpeople waiting")
    assert list(read(FLICKR8K, tmp_path)) == ["a.jpg"]


def test_flickr30k_of_kaggle_with_its_one_broken_row(tmp_path):
    fill(tmp_path / "flickr30k_images" / "flickr30k_images", "1.jpg", "2199200615.jpg")
    write(
        tmp_path / "flickr30k_images" / "results.csv",
        "image_name| comment_number| comment",
        "1.jpg| 0| Two young guys , one | with hair .",
        "2199200615.jpg| 4   A dog runs across the grass .",
    )
    expected = {"1.jpg": ["Two young guys , one | with hair ."], "2199200615.jpg": ["A dog runs across the grass ."]}
    assert read(FLICKR30K, tmp_path) == expected
    assert read(FLICKR30K, tmp_path / "flickr30k_images") == expected


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("results_20130124.token", ["1.jpg#0\tTwo guys"]),
        ("captions.txt", ["image_name,comment_number,comment", "1.jpg,0,Two guys"]),
        ("captions.txt", ["image,caption", "1.jpg,Two guys"]),
    ],
)
def test_flickr30k_in_its_other_files(tmp_path, name, lines):
    fill(tmp_path / "flickr30k-images", "1.jpg")
    write(tmp_path / name, *lines)
    assert read(FLICKR30K, tmp_path) == {"1.jpg": ["Two guys"]}


def test_lists_of_flickr30k_entities_name_images_without_extension(tmp_path):
    fill(tmp_path / "flickr30k-images", "1.jpg", "2.jpg")
    write(tmp_path / "results_20130124.token", "1.jpg#0\tone", "2.jpg#0\ttwo")
    write(tmp_path / "train.txt", "2")
    write(tmp_path / "val.txt", "1")
    assert read(FLICKR30K, tmp_path, "val") == {"1.jpg": ["one"]}


def test_karpathys_json_alone_decides(tmp_path):
    fill(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", "unnamed.jpg")
    write(tmp_path / "captions.txt", "image,caption", "unnamed.jpg,never read", "broken")
    write(tmp_path / "Flickr_8k.devImages.txt", "a.jpg")
    images = ("a.jpg", "train", "A dog", " "), ("b.jpg", "restval", "A cat"), ("c.jpg", "test", "A cow", "Again")
    write_karpathy(tmp_path / "dataset_flickr8k.json", *images)
    assert read(FLICKR8K, tmp_path) == {"a.jpg": ["A dog"], "b.jpg": ["A cat"]}
    assert read(FLICKR8K, tmp_path, "test") == {"c.jpg": ["A cow", "Again"]}
    with pytest.raises(InputError, match=r"dataset_flickr8k.json has no split val; it has: train, test\."):
        read(FLICKR8K, tmp_path, "val")


def test_only_the_images_of_the_split_that_is_read_must_be_there(tmp_path):
    fill(tmp_path / "Images", "a.jpg")
    names = [f"{name}.jpg" for name in "bcde"]
    write_karpathy(tmp_path / "dataset_flickr8k.json", ("a.jpg", "train", "x"), *((n, "val", "x") for n in names))
    assert list(read(FLICKR8K, tmp_path)) == ["a.jpg"]
    message = (
        r"^4 of 4 images that .*dataset_flickr8k.json names are not in .*Images: b.jpg, c.jpg, d.jpg, \.\.\.\. Put"
    )
    with pytest.raises(InputError, match=message):
        read(FLICKR8K, tmp_path, "val")


def test_the_folder_that_holds_most_of_the_images_is_taken(tmp_path):
    fill(tmp_path / "Images", "thumbnail.jpg")
    fill(tmp_path / "Flicker8k_Dataset", "a.jpg", "b.jpg")
    write(tmp_path / "captions.txt", "image,caption", "a.jpg,x", "b.jpg,y")
    assert FLICKR8K.load(tmp_path, split="train")[1].image.path == tmp_path / "Flicker8k_Dataset" / "b.jpg"  # type: ignore[attr-defined]


def test_images_may_lie_beside_the_captions(tmp_path):
    fill(tmp_path, "a.jpg")
    write(tmp_path / "captions.txt", "image,caption", "a.jpg,x")
    assert FLICKR8K.load(tmp_path, split="train")[0].image.path == tmp_path / "a.jpg"  # type: ignore[attr-defined]


def test_a_missing_folder_of_images_is_told(tmp_path):
    write(tmp_path / "captions.txt", "image,caption", "a.jpg,x")
    with pytest.raises(
        InputError, match=r"1 of 1 images that .*captions.txt names are not in .*: a.jpg\. Put them there"
    ):
        read(FLICKR8K, tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_caption_file_says_which_was_expected(tmp_path, reader):
    fill(tmp_path / "Images", "a.jpg")
    with pytest.raises(InputError, match=rf"holds no captions of {reader.kind}: {reader.karpathy}, {reader.token} or"):
        read(reader, tmp_path)


def test_a_file_is_refused_with_its_folder(tmp_path):
    write(tmp_path / "captions.txt", "image,caption", "a.jpg,x")
    with pytest.raises(InputError, match=rf"captions.txt is a file\. Give the folder .*: {tmp_path}"):
        read(FLICKR8K, tmp_path / "captions.txt")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["file,text", "a.jpg,x"],
            r"captions.txt:1: the columns are 'file,text'; one of these was expected: image,cap",
        ),
        (["image,caption", "a.jpg,x", "a.jpg"], r"captions.txt:3: 'a.jpg' doesn't fit the columns 'image,caption'"),
        (["image,caption", "../a.jpg,x"], r"captions.txt:2: '../a.jpg' leads out of its folder"),
        (["image,caption", "a.jpg,x", "b.jpg,", 'b.jpg," "'], r"captions.txt:3: b.jpg has no caption that isn't empty"),
        (["image,caption"], r"captions.txt has no split train; it has: none"),
        ([], r"captions.txt is empty"),
    ],
)
def test_broken_lines_of_the_csv_are_named(tmp_path, lines, message):
    fill(tmp_path / "Images", "a.jpg", "b.jpg")
    write(tmp_path / "captions.txt", *lines)
    with pytest.raises(InputError, match=message):
        read(FLICKR8K, tmp_path)


@pytest.mark.parametrize("line", ["a.jpg#1 no tab", "a.jpg\tno number"])
def test_broken_lines_of_the_token_file_are_named(tmp_path, line):
    fill(tmp_path / "Images", "a.jpg")
    write(tmp_path / "Flickr8k.token.txt", "a.jpg#0\tx", line)
    with pytest.raises(InputError, match=r"token.txt:2: .* doesn't fit 'name.jpg#0', a tab and a caption"):
        read(FLICKR8K, tmp_path)


def test_captions_that_are_not_utf8_are_named_by_line(tmp_path):
    fill(tmp_path / "Images", "a.jpg")
    (tmp_path / "captions.txt").write_bytes(b"image,caption\na.jpg,caf\xe9\n")
    with pytest.raises(InputError, match=r"captions.txt:2: byte 0xe9 is not UTF-8"):
        read(FLICKR8K, tmp_path)


def test_one_image_in_two_lists_names_both_lines(tmp_path):
    fill(tmp_path / "Images", "a.jpg")
    write(tmp_path / "Flickr8k.token.txt", "a.jpg#0\tx")
    write(tmp_path / "Flickr_8k.trainImages.txt", "a.jpg")
    write(tmp_path / "Flickr_8k.testImages.txt", "b.jpg", "a.jpg")
    with pytest.raises(InputError, match=r"Images.txt:1: a.jpg is in split train, but in test at .*testImages.txt:2"):
        read(FLICKR8K, tmp_path)


def test_a_listed_image_without_captions_is_named(tmp_path):
    fill(tmp_path / "Images", "a.jpg", "b.jpg")
    write(tmp_path / "Flickr8k.token.txt", "a.jpg#0\tx")
    write(tmp_path / "Flickr_8k.trainImages.txt", "a.jpg", "b.jpg")
    with pytest.raises(InputError, match=r"1 of 2 images that the lists of splits name have no caption in .*: b.jpg"):
        read(FLICKR8K, tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [("a.jpg", "train", "x"), ("a.jpg", "val", "y")],
            r"images\[1\]: a.jpg is in split val, but in train at .*\[0\]",
        ),
        ([("a.jpg", "train", "x"), ("a.jpg", "train", "y")], r"images\[1\]: a.jpg is listed twice"),
        ([("a.jpg", "holdout", "x")], r"images\[0\]: 'holdout' is no split; train, restval, val or test"),
        ([("a.jpg", "train", " ")], r"images\[0\]: a.jpg has no caption that isn't empty"),
        ([("a.jpg", "train")], r"images\[0\]: a.jpg has no caption"),
        ([("../a.jpg", "train", "x")], r"images\[0\]: '../a.jpg' leads out of its folder"),
        ([("a.jpg", "train", 3)], r"images\[0\]: a list of sentences, each with its `raw` text"),
        ([], "has no list `images`"),
    ],
)
def test_broken_entries_of_karpathys_json_are_named(tmp_path, images, message):
    fill(tmp_path / "Images", "a.jpg")
    write_karpathy(tmp_path / "dataset_flickr8k.json", *images)
    with pytest.raises(InputError, match=message):
        read(FLICKR8K, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"images": [\n{"filename": "a.jpg", "spl',
            r"8k.json:2: Unterminated string .*: the file seems to be cut off",
        ),
        ('{"images": [\n{"filename": "a.jpg"},\n', r"8k.json:3: Expecting value .*: the file seems to be cut off"),
        ('{"images": [\n}', r"8k.json:2: Expecting value at column 1: this is no valid JSON"),
        ('{"images": "\xe9"}', r"8k.json:1: byte 0xe9 is not UTF-8"),
        ("", r"8k.json is empty"),
        ("[" * 100_000, r"8k.json is nested too deeply"),
        ("[]", "has no list `images`"),
        ('{"images": [3]}', r"images\[0\] has int; filename, split and sentences were expected"),
        ('{"images": [{"filename": "a"}]}', r"images\[0\] has filename; filename, split and sentences"),
        (
            '{"images": [{"filename": "a", "split": "train", "sentences": ["x"]}]}',
            r"images\[0\]: a list of sentences, each with its `raw`",
        ),
    ],
)
def test_broken_json_is_named_by_line(tmp_path, content, message):
    fill(tmp_path / "Images", "a.jpg")
    (tmp_path / "dataset_flickr8k.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read(FLICKR8K, tmp_path)


def test_each_set_recognises_its_own_files_only(tmp_path):
    def recognised(name, *lines):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write(folder / "below" / name, *lines)
        return [reader.kind for reader in READERS if reader.recognises(folder)]

    assert recognised("captions.txt", "image,caption") == ["flickr8k"]
    assert recognised("captions.txt", "image_name,comment_number,comment") == ["flickr30k"]
    assert recognised("results.csv", "image_name| comment_number| comment") == ["flickr30k"]
    assert recognised("results.csv", "model,accuracy") == []
    assert recognised("captions.txt", "some text") == []
    for reader in READERS:
        assert recognised(reader.karpathy, "{}") == recognised(reader.token, "x") == [reader.kind]
    assert not FLICKR8K.recognises(tmp_path / "absent")


@pytest.mark.shared
def test_real_flickr8k_has_karpathys_splits_with_five_captions_an_image():
    folder = SHARED_DATA / "flickr8k"
    train, val = (FLICKR8K.load(folder, split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6_000, 1_000)
    assert {len(pair.captions) for dataset in (train, val) for pair in dataset} == {5}
    assert not {pair.id for pair in train} & {pair.id for pair in val}
    assert train[0].image.read().shape == (192, 192, 3)
    assert train.fingerprint != val.fingerprint
    with pytest.raises(InputError, match="has no split test; it has: train, val"):
        FLICKR8K.load(folder, split="test")


@pytest.mark.shared
def test_real_kaggle_csv_says_the_same_as_karpathys_json(tmp_path):
    folder = SHARED_DATA / "flickr8k"
    (tmp_path / "Images").symlink_to(folder / "Images")
    (tmp_path / "captions.txt").symlink_to(folder / "captions.txt")
    kaggle = {pair.id: Counter(pair.captions) for pair in FLICKR8K.load(tmp_path, split="train")}
    both = [FLICKR8K.load(folder, split=split) for split in ("train", "val")]
    assert kaggle == {p.id: Counter(caption.strip() for caption in p.captions) for dataset in both for p in dataset}
