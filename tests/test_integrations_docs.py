"""The Python blocks on text generation, endpoints and pictures, run in order, with the output that the page shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = {
    section.partition("\n")[0]: section for section in (DOCS / "hugging-face.md").read_text("utf-8").split("\n## ")
}


@pytest.mark.parametrize("title", ["Text generation", "Inference endpoints", "Image generation"])
def test_every_python_block_runs_and_prints_what_the_page_says(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the loopback is reached all the same
    (tmp_path / "photos").mkdir()
    write_coffee(tmp_path / "photos" / "coffee.png")
    names, printed = {}, ""
    blocks = re.findall(r"```(python|text)\n(.*?)```", SECTIONS[f"{title}: reference"], re.DOTALL)
    assert sum(kind == "python" for kind, _ in blocks) >= 1
    for kind, block in blocks:
        if kind == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block, title, "exec"), names)
            printed = output.getvalue()
        else:
            assert without_times(printed) == without_times(block)


def write_coffee(path):
    import numpy as np
    from PIL import Image

    brown = np.full((60, 80, 3), (110, 70, 30), np.uint8)
    Image.fromarray(brown).save(path)


def without_times(text):
    """Rates and times are those of the machine."""
    return re.sub(r"[\d,.]+ images/s.*", "", text)
