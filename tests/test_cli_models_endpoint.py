"""`sightline export endpoint` and `sightline endpoint`."""

import json
from functools import partial

import pytest
from click.testing import CliRunner

from captioning_fakes import paint
from sightline.core.models.remote import estimate_cost
from sightline.errors import InputError, ModelError
from sightline.faces.cli.models import endpoint, export
from sightline.faces.integrations.endpoint_local import run_endpoint


def run(group, *words):
    result = CliRunner().invoke(group, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "endpoint"
    result = run(export, "endpoint", "starter", folder, "--json")
    assert json.loads(result.stdout)["models"] == ["starter"]
    return folder


def test_an_export_says_what_it_holds_and_how_to_try_it(tmp_path):
    result = run(export, "endpoint", "starter-captioner", tmp_path / "made")
    assert result.stdout == ""
    assert f"python {tmp_path / 'made'}/handler.py" in result.stderr
    assert "licence of its weights: Not MIT" in result.stderr
    refused = CliRunner().invoke(export, ["endpoint", "starter", str(tmp_path)])
    assert isinstance(refused.exception, InputError)


def test_what_an_endpoint_serves_and_costs(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.core.models.remote.estimate_cost", partial(estimate_cost, rounds=1))
    paint(tmp_path / "a" / "red.png", "red")
    paint(tmp_path / "b" / "blue.png", "blue")
    with run_endpoint(exported) as url:
        facts = json.loads(run(endpoint, "info", url, "--json").stdout)
        assert (facts["encoder"], facts["dim"], facts["precision"]) == ("starter", 384, "int8")
        assert "starter" in run(endpoint, "info", f"endpoint:{url}").stdout
        folders = [tmp_path / "a", tmp_path / "b"]
        answer = json.loads(run(endpoint, "cost", url, *folders, "--price-per-hour", 0.6, "--json").stdout)
        assert answer["images"] == 2
        assert answer["price"] == pytest.approx(answer["seconds"] / 3600 * 0.6)
        assert run(endpoint, "cost", url, "--images", 1000).stdout.startswith("1,000 images, ")
        assert CliRunner().invoke(endpoint, ["cost", url]).exit_code == 2
        assert CliRunner().invoke(endpoint, ["cost", url, str(tmp_path), "--images", "5"]).exit_code == 2


def test_an_endpoint_that_is_not_there_is_an_error():
    result = CliRunner().invoke(endpoint, ["info", "http://127.0.0.1:9"])
    assert isinstance(result.exception, ModelError)
    assert "no connection" in str(result.exception)
