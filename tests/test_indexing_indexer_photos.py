"""Indexing real photos and real encoders."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexing_world import PooledEncoder, rows, touch
from sightline.core.indexing.indexer import index
from sightline.core.indexing.reading import FileReader
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption
from sightline.errors import ModelError

FLICKR8K = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k" / "Images"


def starter():
    from sightline.core.models.loading import load_encoder

    try:
        return load_encoder("starter")
    except (ModelError, OSError) as error:
        pytest.skip(f"the starter weights are not there: {error}")


def change_pixels(path):
    with Image.open(path) as image:
        changed = image.convert("RGB").transpose(Image.Transpose.ROTATE_180)
    changed.save(path, "JPEG", quality=90)


@pytest.mark.shared
def test_scaled_decoding_keeps_vectors():
    from sightline.core.images.decode import read_image

    encoder = starter()
    preprocessing = encoder.card.preprocessing
    paths = sorted((FLICKR8K.parents[1] / "coco-mini" / "train2017").glob("*.jpg"))[:40]

    def embed(min_side_px):
        images = [read_image(path, min_side_px=min_side_px) for path in paths]
        assert (min_side_px is None) == all(one.rgb.shape[1] == one.info.width for one in images)
        return encoder.encode_images(np.stack([preprocessing.resize(one.rgb) for one in images]))

    cosines = (embed(None) * embed(preprocessing.size_px)).sum(axis=1)
    assert cosines.min() >= 0.995
    assert cosines.mean() >= 0.999


@pytest.mark.shared
@pytest.mark.slow
def test_seven_thousand_photos_stay_up_to_date(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    shutil.copytree(FLICKR8K, folder)
    paths = sorted(folder.iterdir())
    assert len(paths) == 7000
    store, encoder = open_store(tmp_path / "library"), PooledEncoder()
    first = index(store, encoder, [folder])
    assert (first.added + first.copied, first.skipped) == (7000, [])

    with monkeypatch.context() as patch:
        patch.setattr(FileReader, "__call__", lambda *_: pytest.fail("an unchanged file was read"))
        assert index(store, encoder, [folder]).unchanged == 7000

    before, encoded = rows(store), encoder.encoded
    for path in paths[:5]:
        change_pixels(path)
    for path in paths[100:105]:
        touch(path)
    for path in paths[200:203]:
        path.unlink()
    renamed = {path: folder / "other" / f"renamed {path.name}" for path in paths[300:302]}
    (folder / "other").mkdir()
    for old, new in renamed.items():
        store.put_captions({before[old.name].id: [Caption(text="kept words", source="generated", best=True)]})
        old.rename(new)
    report = index(store, encoder, [folder])
    assert encoder.encoded - encoded == report.embedded == 5
    assert (report.updated, report.touched, report.removed, report.renamed) == (5, 5, 3, 2)
    for old, new in renamed.items():
        row_id = store.find_path(new).id
        assert row_id == before[old.name].id
        assert [caption.text for caption in store.captions([row_id])[row_id]] == ["kept words"]
    gone = [before[path.name] for path in paths[200:203]]
    probe = store.vectors("pooled")[1][0]
    found = {row_id for row_id, _ in store.query(probe, 7000, model="pooled")}
    assert len(found) == 6997
    assert found.isdisjoint(record.id for record in gone)
    store.close()


def test_the_eight_orientations_of_an_image_embed_alike(tmp_path):
    encoder = starter()
    from skimage import data

    upright = Image.fromarray(data.astronaut()).crop((0, 0, 512, 400))
    way = Image.Transpose
    turns = [None, way.FLIP_LEFT_RIGHT, way.ROTATE_180, way.FLIP_TOP_BOTTOM]
    turns += [way.TRANSPOSE, way.ROTATE_90, way.TRANSVERSE, way.ROTATE_270]
    folder = tmp_path / "photos"
    folder.mkdir()
    for orientation, turn in enumerate(turns, start=1):
        stored = upright if turn is None else upright.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        stored.save(stream, "JPEG", quality=95, exif=exif)
        (folder / f"{orientation}.jpg").write_bytes(stream.getvalue())
    store = open_store(tmp_path / "library")
    assert index(store, encoder, [folder]).added == 8
    vectors = store.vectors(encoder.identity.name)[1]
    store.close()
    similarities = vectors @ vectors[0]
    assert np.all(similarities > 0.99), similarities
