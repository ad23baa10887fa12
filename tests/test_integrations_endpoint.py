"""Exported endpoints: in a clean process, and what their handler makes of good and bad requests.

Covers: sightline.faces.integrations.endpoint_export,
sightline.faces.integrations.endpoint_handler,
sightline.faces.integrations.endpoint_local.
"""

import base64
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from captioning_fakes import paint
from model_folders import TEXTS, cosines, random_pixels
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import read_card
from sightline.core.models.loading import load_captioner, load_encoder
from sightline.errors import InputError, ModelError
from sightline.faces.integrations.endpoint_export import export_endpoint
from sightline.faces.integrations.endpoint_handler import EndpointHandler, EndpointLimits
from sightline.faces.integrations.endpoint_local import run_endpoint


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_endpoint("starter", tmp_path_factory.mktemp("both") / "endpoint", captioner="starter-captioner")


@pytest.fixture(scope="module")
def handler(exported):
    return EndpointHandler(str(exported.folder))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def as_text(content):
    return base64.b64encode(content).decode()


def ask(handler, task, inputs, **parameters):
    return handler({"inputs": inputs, "parameters": {"task": task, **parameters}})


CLEAN = """
import json, sys
sys.path[:] = [place for place in sys.path if place and not place.rstrip("/").endswith("src")]
import importlib.util
spec = importlib.util.spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import sightline
assert sightline.__file__.startswith(sys.argv[1]), sightline.__file__
requests = json.load(sys.stdin)
handler = module.EndpointHandler(sys.argv[1])
print(json.dumps([handler(request) for request in requests]))
heavy = ("torch", "transformers", "click", "httpx2", "huggingface_hub")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_the_folder_alone_computes_in_a_clean_process_what_is_computed_here(exported, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(exported.folder, folder)
    encoder, captioner = load_encoder("starter"), load_captioner()
    pixels = random_pixels(3, encoder.card.preprocessing.size_px)
    smaller = random_pixels(3, captioner.card.preprocessing.size_px)
    images, told = ([as_text(png(one)) for one in several] for several in (pixels, smaller))
    beams = {"beams": 2, "num_candidates": 2}
    requests = [
        {"inputs": images, "parameters": {"task": "image-feature-extraction"}},
        {"inputs": TEXTS, "parameters": {"task": "feature-extraction"}},
        {"inputs": told, "parameters": {"task": "image-to-text", **beams}},
        {"inputs": told, "parameters": {"task": "caption-scores", "texts": [["a dog"], [], ["a man", "snow"]]}},
    ]
    run = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN, str(folder)],
        input=json.dumps(requests),
        cwd="/",
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (image_BD, text_TD, captions, scores), heavy = map(json.loads, run.stdout.splitlines())
    assert heavy == []
    assert cosines(np.array(image_BD), encoder.encode_images(pixels)).min() >= 0.9999
    assert cosines(np.array(text_TD), encoder.encode_texts(TEXTS)).min() >= 0.9999
    here = captioner.generate(smaller, GenerationConfig(**beams))  # type: ignore[arg-type]
    assert [[one["generated_text"] for one in several] for several in captions] == [
        [caption.text for caption in several] for several in here
    ]
    expected = captioner.score(smaller, [["a dog"], [], ["a man", "snow"]])
    assert [len(several) for several in scores] == [1, 0, 2]
    for several, theirs in zip(scores, expected, strict=True):
        np.testing.assert_allclose(several, theirs, atol=1e-5)


def test_the_card_tells_the_identity_of_the_model_here(handler, exported):
    told = ask(handler, "card", None)
    encoder = load_encoder("starter")
    assert told["encoder"]["name"] == "starter"
    assert told["encoder"]["weights_hash"] == encoder.identity.weights_hash
    card = read_card(exported.folder / "encoder")
    assert card.make_identity(card.weights_hash) == encoder.identity
    assert told["precision"] == encoder.precision
    assert told["captioner"]["name"] == "starter-captioner"
    assert set(told["tasks"]) == {
        "card",
        "feature-extraction",
        "image-feature-extraction",
        "image-feature-maps",
        "zero-shot-image-classification",
        "image-to-text",
        "caption-scores",
    }


def test_the_repository_has_what_an_endpoint_needs(exported):
    folder = exported.folder
    readme = (folder / "README.md").read_text("utf-8")
    head = readme.split("---\n")[1]
    assert "pipeline_tag: zero-shot-image-classification" in head
    assert "endpoints-custom-handler" in head
    assert "Not MIT: changed from EfficientNet-Lite2" in readme
    assert "$" not in readme
    assert (folder / "LICENSE").read_text("utf-8").strip()
    lines = (folder / "requirements.txt").read_text("utf-8").splitlines()
    assert {line.partition("==")[0] for line in lines} == {"numpy", "onnxruntime", "pillow", "simplejpeg", "tokenizers"}
    assert all(line.partition("==")[2] for line in lines)
    assert exported.size_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert not list(folder.rglob("*.bin"))


def test_an_endpoint_of_one_model_serves_its_tasks_only(tmp_path):
    alone = export_endpoint("starter-captioner", tmp_path / "captioner")
    handler = EndpointHandler(str(alone.folder))
    assert ask(handler, "card", None)["tasks"] == ["card", "image-to-text", "caption-scores"]
    assert "pipeline_tag: image-to-text" in (alone.folder / "README.md").read_text("utf-8")
    with pytest.raises(InputError, match=r"no task 'feature-extraction' here\. Tasks: card, image-to-text"):
        handler({"inputs": "words"})
    encoder = EndpointHandler(str(export_endpoint("starter", tmp_path / "encoder").folder))
    image = Image.new("RGB", (20, 30), "red")
    assert len(encoder({"inputs": image})) == 384


def test_a_folder_of_the_users_is_not_replaced_and_an_endpoint_is(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "handler.py").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        export_endpoint("starter", tmp_path / "letters")
    with pytest.raises(InputError, match="holds something else"):
        export_endpoint("starter", tmp_path / "letters" / "handler.py")
    folder = export_endpoint("starter", tmp_path / "endpoint").folder
    (folder / "stale.txt").write_text("old")
    assert export_endpoint("starter", folder).folder == folder
    assert not (folder / "stale.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endpoint", "letters"]


@pytest.mark.parametrize(("model", "captioner"), [("starter", "starter"), ("starter-captioner", "starter-captioner")])
def test_two_models_of_one_kind_are_refused(tmp_path, model, captioner):
    with pytest.raises(InputError, match="one encoder and one captioner"):
        export_endpoint(model, tmp_path / "x", captioner=captioner)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_here_leaves_nothing_behind(tmp_path):
    with pytest.raises(ModelError, match="models pull"):
        export_endpoint("ViT-B-16/openai", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_folder_of_the_users_does_not_tell_where_it_lies(exported, tmp_path):
    folder = tmp_path / "private" / "my-clip"
    shutil.copytree(exported.folder / "encoder", folder)
    card = json.loads((folder / "sightline.json").read_text())
    (folder / "sightline.json").write_text(json.dumps({**card, "name": "my | clip\n# $x"}))
    made = export_endpoint(f"dir:{folder}", tmp_path / "endpoint")
    everything = "".join(p.read_text("utf-8") for p in made.folder.rglob("*") if p.suffix in (".md", ".json", ".py"))
    assert "private" not in everything.split("import")[0]
    assert str(tmp_path) not in everything
    assert "\n# ﹩x" not in (made.folder / "README.md").read_text("utf-8")


def test_changed_weights_are_refused(exported, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exported.folder, folder)
    with (folder / "encoder" / "onnx" / "text.int8.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match="is not what the model's card says"):
        EndpointHandler(str(folder))
    with pytest.raises(ModelError, match="holds no model"):
        EndpointHandler(str(tmp_path))


def test_zero_shot_classification_is_softmax_of_the_models_own_cosines(handler, tmp_path):
    content = paint(tmp_path / "red.png", "red").read_bytes()
    labels = ["red", "blue", "green"]
    ranked = ask(handler, "zero-shot-image-classification", as_text(content), candidate_labels=labels)
    assert {one["label"] for one in ranked} == set(labels)
    assert sum(one["score"] for one in ranked) == pytest.approx(1)
    encoder = load_encoder("starter")
    pixels = encoder.card.preprocessing.resize(np.array(Image.open(io.BytesIO(content)).convert("RGB")))
    texts = encoder.encode_texts([f"a photo of {label}" for label in labels])
    nats = encoder.card.temperature * (texts @ encoder.encode_images(pixels[None])[0])
    shares = np.exp(nats) / np.exp(nats).sum()
    assert [one["label"] for one in ranked] == [labels[i] for i in np.argsort(-shares)]
    assert ranked[0]["score"] == pytest.approx(shares.max(), abs=1e-5)
    many = ask(handler, "zero-shot-image-classification", [as_text(content)] * 2, candidate_labels=labels)
    assert [[one["label"] for one in several] for several in many] == [[one["label"] for one in ranked]] * 2
    assert many[1][0]["score"] == pytest.approx(ranked[0]["score"], abs=1e-4)


def test_images_come_as_base64_data_urls_bytes_or_decoded(handler):
    content = png(random_pixels(1, 128)[0])
    first = ask(handler, "image-feature-extraction", as_text(content))
    assert len(first) == 384
    for other in ("data:image/png;base64," + as_text(content), content, Image.open(io.BytesIO(content))):
        assert ask(handler, "image-feature-extraction", other) == first
    assert ask(handler, "image-feature-extraction", [as_text(content)]) == [first]
    assert ask(handler, "image-feature-extraction", []) == []


def test_a_phone_photo_that_lies_on_its_side_is_turned(handler):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:30, :, 0] = 255
    turned = Image.fromarray(np.rot90(pixels, -1).copy())
    exif = Image.Exif()
    exif[0x0112] = 8
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    upright = ask(handler, "image-feature-extraction", as_text(png(pixels)))
    for form in (as_text(stream.getvalue()), Image.open(io.BytesIO(stream.getvalue()))):
        np.testing.assert_allclose(ask(handler, "image-feature-extraction", form), upright, atol=1e-5)


def test_the_hubs_own_client_talks_to_it(exported, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    from huggingface_hub import InferenceClient

    image = paint(tmp_path / "sea.png", "blue").read_bytes()
    with run_endpoint(exported.folder) as url:
        client = InferenceClient(model=url, token="none")
        vectors = client.feature_extraction(["a dog", "the sea"])
        assert vectors.shape == (2, 384)
        np.testing.assert_allclose(vectors, load_encoder("starter").encode_texts(["a dog", "the sea"]), atol=1e-5)
        assert client.image_to_text(image).generated_text.strip()
        labels = client.zero_shot_image_classification(image, ["sea", "dog"])
        assert {one.label for one in labels} == {"sea", "dog"}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ("words", "A request is a JSON object"),
        ({}, "A request is a JSON object"),
        ({"inputs": "a", "parameters": [1]}, "parameters must be a JSON object"),
        ({"inputs": "a", "parameters": {"task": "format-disk"}}, "no task 'format-disk'"),
        ({"inputs": "a", "parameters": {"shell": "x"}}, "Unknown parameters: shell. Allowed: normalize, truncate"),
        ({"inputs": [1]}, "not a base64 string"),
        ({"inputs": ["a", 1]}, "must be a text or a list of texts"),
        ({"inputs": "a" * 200}, "200 characters; at most 100"),
        ({"inputs": ["a"] * 5}, "5 texts are too many"),
        ({"inputs": "a", "parameters": {"expects": "another model"}}, "was exchanged"),
        ({"inputs": "a", "parameters": {"task": "card", "x": 1}}, "Unknown parameters"),
        ({"inputs": "aGVsbG8=", "parameters": {"candidate_labels": []}}, "needs a label"),
        (
            {"inputs": "aGVsbG8=", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "x"}},
            "where the label",
        ),
        ({"inputs": "aGVsbG8=", "parameters": {"candidate_labels": "a"}}, "candidate_labels must be list"),
        ({"inputs": "aGVsbG8=", "parameters": {"candidate_labels": ["a"]}}, "Image 1 can't be read: not an image"),
    ],
)
def test_bad_requests_are_told_what_is_allowed(handler, monkeypatch, request_, reason):
    monkeypatch.setattr(handler, "limits", EndpointLimits(max_text_chars=100, max_texts=4))
    with pytest.raises(InputError, match=reason):
        handler(request_)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("https://x.org/a.jpg", "it is an address, and none is fetched"),
        ("file:///etc/passwd", "it is an address, and none is fetched"),
        ("/etc/passwd", "no valid base64"),
        (as_text(b"words"), "its content is text"),
        ("no base64!", "no valid base64"),
        ("data:image/png;base64", "no valid base64"),
        ("A" * 400_000, "more than 200,000 bytes"),
        (bytes(300_000), "more than 200,000 bytes"),
        (as_text(b"\xff\xd8\xff\xe0 broken"), "JPEG"),
        (as_text(png(np.zeros((110, 110, 3), np.uint8))), "110 x 110 pixels; at most 10,000"),
        (Image.new("RGB", (200, 100)), "200 x 100 pixels; at most 10,000"),
        ({"url": "x"}, "not a base64 string"),
    ],
)
def test_bad_images_are_named_with_the_reason(handler, monkeypatch, image, reason):
    monkeypatch.setattr(handler, "limits", EndpointLimits(max_image_bytes=200_000, max_image_pixels=10_000))
    good = as_text(png(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(InputError, match=rf"Image 2 can't be read: .*{reason}"):
        ask(handler, "image-feature-extraction", [good, image])


def test_too_many_images_or_bytes_are_refused(exported):
    handler = EndpointHandler(
        str(exported.folder), limits=EndpointLimits(max_images=2, max_maps=1, max_request_bytes=900)
    )
    small = as_text(png(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(InputError, match="3 images are too many"):
        ask(handler, "image-feature-extraction", [small] * 3)
    with pytest.raises(InputError, match="2 images are too many"):
        ask(handler, "image-feature-maps", [small] * 2)
    with pytest.raises(InputError, match="at most 900 bytes together"):
        ask(handler, "image-feature-extraction", ["A" * 1000, "A" * 1000])


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"beams": "3"}, "beams must be int"),
        ({"beams": True}, "beams must be int"),
        ({"temperature": float("nan")}, "temperature must be float"),
        ({"beams": 100, "num_candidates": 2}, "100 captions are too many"),
        ({"num_candidates": 5}, "3 beams give at most 3"),
        ({"prompt": "a" * 3000}, "3,000 characters"),
    ],
)
def test_bad_options_of_captions_are_refused(handler, parameters, reason):
    with pytest.raises(InputError, match=reason):
        ask(handler, "image-to-text", [], **parameters)


@pytest.mark.parametrize("texts", [None, "a", [["a"]], [["a"], [1]], [["a"] * 200, ["a"] * 200]])
def test_texts_to_score_must_be_a_list_for_each_image(handler, texts):
    small = as_text(png(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(InputError, match="texts"):
        ask(handler, "caption-scores", [small, small], texts=texts)


def test_the_local_server_says_what_is_wrong_and_goes_on(exported):
    import http.client

    import httpx2

    with run_endpoint(exported.folder) as url, httpx2.Client() as client:
        assert client.get(url).json() == {"status": "ok"}
        answer = client.post(url, content=b"{", headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert client.post(url, json={"inputs": ["a", 1]}).json()["error"].startswith("inputs must be a text")
        assert "not an image" in client.post(url, content=b"words", headers={"Content-Type": "image/png"}).text
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("POST", "/", headers={"Content-Length": "999999999999"})
        assert connection.getresponse().status == 413
        connection.close()
        assert len(client.post(url, json={"inputs": "a dog"}).json()) == 1
