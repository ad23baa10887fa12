import importlib.util
import inspect
import resource
import subprocess
import sys

import pytest

import sightline
import sightline.lab as lab

PUBLIC = [
    "Caption",
    "CaptionConfig",
    "CaptionFailure",
    "DataError",
    "Dataset",
    "DualCaption",
    "GenerationConfig",
    "Hit",
    "ImageError",
    "ImageRecord",
    "IndexConfig",
    "InputError",
    "Library",
    "ModelError",
    "SightlineError",
    "StoreError",
    "TrainConfig",
    "TrainingError",
    "__version__",
    "caption",
    "load_captioner",
    "load_dataset",
    "load_encoder",
    "make_config",
    "train",
]


def test_the_public_names_are_these_at_most_25_and_each_loads():
    assert len(PUBLIC) <= 25
    assert sightline.__all__ == PUBLIC == dir(sightline)
    for name in sightline.__all__:
        if name == "train" and not importlib.util.find_spec("torch"):
            continue
        assert getattr(sightline, name) is not None


def test_the_lab_has_five_doors_and_each_loads():
    assert lab.__all__ == ["compare", "evaluate", "report", "sweep", "train"] == dir(lab)
    for name in lab.__all__:
        if name in ("sweep", "train") and not importlib.util.find_spec("torch"):
            continue
        assert inspect.getdoc(getattr(lab, name)), name
    with pytest.raises(AttributeError, match="nothing_like_this"):
        lab.nothing_like_this  # noqa: B018


def test_public_names_are_documented():
    for name in set(sightline.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(sightline, name)), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_this"):
        sightline.nothing_like_this  # noqa: B018


HEAVY = ("numpy", "onnxruntime", "torch", "transformers", "PIL", "numkong", "tokenizers", "huggingface_hub", "tqdm")


def loaded_by(code):
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return run.stdout.split("\n")[-2].split()


def test_importing_the_package_loads_no_heavy_library():
    assert loaded_by("import sightline, sightline.errors, sightline.lab") == []


def test_help_loads_no_heavy_library():
    code = "from sightline.faces.cli.main import sightline\nsightline(['--help'], standalone_mode=False)"
    assert loaded_by(code) == []


def test_help_takes_little_cpu_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "sightline", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time, not wall time: about 0.05 s here, so that a noisy machine doesn't fail it.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 0.3


def test_indexing_and_searching_with_the_starter_need_neither_torch_nor_transformers(tmp_path):
    code = f"""
import sys
for name in ("torch", "transformers", "torchvision", "onnx"):
    sys.modules[name] = None
from PIL import Image
Image.new("RGB", (64, 48), "red").save({str(tmp_path / "red.png")!r})
import sightline
with sightline.Library.open({str(tmp_path / "library")!r}, model="starter") as library:
    library.index({str(tmp_path)!r})
    print("FOUND", len(library.search("red")))
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "FOUND 1" in run.stdout
