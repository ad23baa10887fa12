"""Where files come from: package, folder, cache, hub. Offline, changed or missing files are one clear error each.

Covers: sightline.core.models.hub.
"""

import dataclasses
import json
import subprocess
import sys

import pytest

from model_folders import ids_of, write_clip_tokenizer
from sightline.core.models import files, hub, loading
from sightline.core.models.cards import OnnxExport, find_card, write_card
from sightline.core.models.files import hash_file, hash_files, is_available, resolve_folder, verify_files
from sightline.errors import ModelError
from sightline.kit.config import cache_dir
from test_models_cards import full_card

WAYS_ON = ("starter", "dir:PATH", "HF_HOME", "sightline models pull")
GRAPHS = ("onnx/vision_model.onnx", "onnx/text_model.onnx")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr(files, "torch_installed", lambda: False)


def fill_cache(hub_cache, repo, revision, files):
    """What huggingface_hub leaves of a download, for a revision that is a commit or a branch."""
    home = hub_cache / f"models--{repo.replace('/', '--')}"
    commit = revision if len(revision) == 40 else "c" * 40
    if commit != revision:
        (home / "refs" / revision).parent.mkdir(parents=True)
        (home / "refs" / revision).write_text(commit)
    for name in files:
        path = home / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + name.encode())
    return home / "snapshots" / commit


def fill_export(hub_cache, card):
    return fill_cache(hub_cache, card.onnx.repo, card.onnx.revision, [*GRAPHS, "tokenizer.json"])


def model_folder(folder, names):
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"weights")
    write_clip_tokenizer(folder, 600)
    text = dataclasses.replace(full_card().text, bos_id=ids_of(600)["bos_token_id"], eos_id=599)
    write_card(folder, dataclasses.replace(full_card(), files={}, text=text))
    return find_card(f"dir:{folder}")


def test_offline_and_not_cached_is_one_error_with_the_ways_on(hub_cache):
    for act in (
        lambda: resolve_folder(find_card("ViT-B-32/openai")),
        lambda: resolve_folder(find_card("ViT-B-32/openai"), download=True),
        lambda: loading.pull("ViT-B-32/openai", progress=print),
        lambda: find_card("hf:someone/something"),
    ):
        with pytest.raises(ModelError) as caught:
            act()
        assert all(way in str(caught.value) for way in WAYS_ON)


def test_offline_mode_is_named_as_the_reason(hub_cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        hub.download_snapshot("someone/something", revision="main", patterns=["*.json"])
    assert not hub.hub_answers("someone/something", timeout_s=60)


def test_an_unreachable_hub_is_named_as_the_reason(hub_cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error = ConnectionError("Name or service not known\nsecond line")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", raise_(error))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_args, **_options: pytest.fail("it would retry for 20 s"))
    with pytest.raises(ModelError, match=r"can't be reached: Name or service not known\. Ways on"):
        hub.download_snapshot("someone/something", revision="main", patterns=["*.json"])
    with pytest.raises(ModelError, match="can't be reached"):
        hub.download_size("someone/something", revision="main", patterns=["*.json"])


def raise_(error):
    def act(*_args, **_kwargs):
        raise error

    return act


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "has no public model"),
        (404, "RevisionNotFound", "has no revision 'main'"),
        (403, "GatedRepo", "asks for permission"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(monkeypatch, status, code, message):
    from huggingface_hub import errors

    kinds = {
        "RepoNotFound": errors.RepositoryNotFoundError,
        "RevisionNotFound": errors.RevisionNotFoundError,
        "GatedRepo": errors.GatedRepoError,
    }
    error = kinds[code].__new__(kinds[code])
    monkeypatch.setattr(hub, "snapshot_download", raise_(error))
    with pytest.raises(ModelError, match=message):
        hub.download_snapshot("someone/something", revision="main", patterns=["*.json"])


def test_only_files_that_can_not_run_code_are_asked_for(hub_cache, monkeypatch):
    asked = []
    monkeypatch.setattr(
        hub, "snapshot_download", lambda repo, **options: asked.extend(options["allow_patterns"]) or str(hub_cache)
    )
    for name in ("ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-16-SigLIP2/webli", "blip-base"):
        for runtime in ("auto", "torch"):
            card = find_card(name)
            for choice in files.hub_choices(card, runtime):
                hub.download_snapshot(choice.repo, revision=choice.revision, patterns=choice.patterns)
    assert asked
    assert all(pattern.endswith((".json", ".txt", ".safetensors", ".onnx")) for pattern in asked)


def test_a_cached_export_runs_now_and_without_torch(hub_cache, no_torch):
    card = dataclasses.replace(find_card("ViT-B-32/openai"), files={})
    assert not is_available(card)
    snapshot = fill_export(hub_cache, card)
    assert is_available(card)
    assert resolve_folder(card) == snapshot
    (snapshot / GRAPHS[1]).unlink()
    assert not is_available(card)


def test_cached_weights_need_torch(hub_cache, monkeypatch):
    card = find_card("ViT-B-32/laion2b_s34b_b79k")
    snapshot = fill_cache(hub_cache, card.source, "main", ["config.json", "model.safetensors", "tokenizer.json"])
    monkeypatch.setattr(files, "torch_installed", lambda: True)
    assert is_available(card)
    assert resolve_folder(card) == snapshot
    monkeypatch.setattr(files, "torch_installed", lambda: False)
    assert not is_available(card)
    with pytest.raises(ModelError, match=r"sightline-images\[torch\]"):
        resolve_folder(card, download=True)


def test_the_torch_runtime_never_takes_the_export(hub_cache):
    card = dataclasses.replace(find_card("ViT-B-32/openai"), files={})
    fill_export(hub_cache, card)
    with pytest.raises(ModelError, match="not on this machine"):
        resolve_folder(card, runtime="torch")
    source = fill_cache(hub_cache, card.source, "refs/pr/15", ["config.json", "model.safetensors", "tokenizer.json"])
    assert resolve_folder(card, runtime="torch") == source


def test_cached_files_that_differ_from_the_published_hashes_are_refused(hub_cache):
    fill_export(hub_cache, find_card("ViT-B-32/openai"))
    with pytest.raises(ModelError, match=r"onnx/text_model.onnx, onnx/vision_model.onnx is not what the model's card"):
        resolve_folder(find_card("ViT-B-32/openai"))


def test_a_repository_with_pickles_only_is_refused(hub_cache, monkeypatch):
    monkeypatch.setattr(files, "torch_installed", lambda: True)
    snapshot = fill_cache(hub_cache, "someone/old-clip", "main", ["config.json", "pytorch_model.bin"])
    monkeypatch.setattr(hub, "download_snapshot", lambda *_args, **_options: snapshot)
    card = dataclasses.replace(full_card(), name="hf:someone/old-clip", source="someone/old-clip", files={})
    with pytest.raises(ModelError, match=r"pickled weights \(.bin\) are not loaded"):
        resolve_folder(card, download=True)


@pytest.mark.parametrize(
    ("names", "lacking"), [([], "weights"), (["pytorch_model.bin"], "weights"), (["onnx/image.onnx"], "weights")]
)
def test_a_folder_without_what_runs_is_refused(tmp_path, names, lacking):
    with pytest.raises(ModelError, match=f"lacks {lacking}"):
        resolve_folder(model_folder(tmp_path / "m", names))


def test_a_folder_without_tokenizer_or_gone_is_refused(tmp_path):
    card = model_folder(tmp_path / "m", ["model.safetensors"])
    (tmp_path / "m" / "vocab.json").unlink()
    with pytest.raises(ModelError, match="lacks tokenizer files"):
        resolve_folder(card)
    with pytest.raises(ModelError, match="There is no model folder"):
        resolve_folder(dataclasses.replace(card, source=str(tmp_path / "gone")))


def test_a_package_without_its_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(files.PACKAGE_FOLDERS, "encoder", tmp_path)
    with pytest.raises(ModelError, match="install sightline again"):
        resolve_folder(dataclasses.replace(full_card(), name="starter", source="package"))


def test_a_changed_file_is_found_even_after_it_was_hashed(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    expected = {"model.safetensors": hash_file(path), "absent.onnx": "0" * 64}
    verify_files(tmp_path, expected)
    path.write_bytes(b"other")
    with pytest.raises(ModelError, match=r"model.safetensors is not what the model's card says"):
        verify_files(tmp_path, expected)


def test_an_unchanged_file_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    digest = hash_file(path)
    monkeypatch.setattr(files, "compute_hash", raise_(AssertionError("read again")))
    assert hash_file(path) == digest


def test_hashing_survives_a_damaged_or_unwritable_cache(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    digest = hash_file(path)
    (cache_dir() / "file-hashes.json").write_text("{broken")
    assert hash_file(path) == digest
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file" / "below"))
    assert hash_file(path) == digest


def test_the_hash_of_several_files_depends_on_their_content_alone(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    for path, content in ((a, b"1"), (b, b"2"), (c, b"1")):
        path.write_bytes(content)
    assert hash_files([a]) == hash_file(a)
    assert hash_files([a, b]) == hash_files([b, a]) == hash_files([b, c])
    assert hash_files([a, b]) != hash_files([a, c])


def test_pull_says_what_it_fetches_before_it_does(hub_cache, monkeypatch, no_torch):
    card = dataclasses.replace(find_card("ViT-B-32/openai"), files={})
    monkeypatch.setattr(loading, "find_card", lambda name: card)
    monkeypatch.setattr(hub, "download_size", lambda *_args, **_options: 608_000_000)
    lines = []

    def download(repo, **_options):
        assert len(lines) == 1
        assert repo == "Xenova/clip-vit-base-patch32"
        return fill_export(hub_cache, card)

    monkeypatch.setattr(hub, "download_snapshot", download)
    folder = loading.pull("ViT-B-32/openai", progress=lines.append)
    assert "published ONNX export" in lines[0]
    assert "608 MB from Xenova/clip-vit-base-patch32" in lines[0]
    assert loading.pull("ViT-B-32/openai", progress=lines.append) == folder
    assert "on this machine already" in lines[1]


def test_pull_refuses_weights_that_could_not_run_here(hub_cache, no_torch):
    with pytest.raises(ModelError, match=r"sightline-images\[torch\]"):
        loading.pull("ViT-B-32/laion2b_s34b_b79k", progress=print)


def test_the_names_of_an_export_can_differ(tmp_path, hub_cache):
    export = OnnxExport(repo="someone/export", image="v.onnx", text="t.onnx")
    card = dataclasses.replace(full_card(), name="x", source="someone/x", onnx=export, files={})
    snapshot = fill_cache(hub_cache, "someone/export", "main", ["v.onnx", "t.onnx", "tokenizer.json"])
    assert resolve_folder(card) == snapshot


def test_local_models_never_import_the_hubs_library():
    code = (
        "import sys; from sightline.core.models.cards import find_card, known_cards; known_cards();"
        "from sightline.core.models import files, loading; find_card('ViT-B-32/openai');"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'onnxruntime'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_hash_in_the_cache_file_can_be_read_back(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    digest = hash_file(path)
    stored = json.loads((cache_dir() / "file-hashes.json").read_text())
    assert stored[str(path)][2] == digest
