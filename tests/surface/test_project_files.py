"""What stands beside the code and tells of it: workflows, the layers in the documents, the changelog, the citation."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import sightline

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))

SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def read(name):
    return (REPOSITORY / name).read_text("utf-8")


def settings():
    return tomllib.loads(read("pyproject.toml"))


def layers_of_the_contracts():
    """The layers of each contract, from the top: sets of names of rooms, without those above them."""
    contracts = settings()["tool"]["importlinter"]["contracts"]
    return [
        [{room.rpartition(".")[2].strip() for room in layer.split("|")} for layer in one["layers"]]
        for one in contracts
        if one["type"] == "layers"
    ]


def test_contributing_lists_the_layers_that_are_checked():
    listed = re.findall(r"^    (?:\w+: )?(\w+.* > .*)$", read("CONTRIBUTING.md"), re.MULTILINE)
    told = [[set(re.split(r"[|\s]+", layer.strip())) for layer in line.split(">")] for line in listed]
    assert told == layers_of_the_contracts()


def test_architecture_draws_the_layers_that_are_checked():
    drawing = read("docs/architecture.md").partition("## Layers")[2].partition("## ")[0]
    drawn = re.findall(r"^    ((?:\w+(?:/|\.py) +)+)", drawing, re.MULTILINE)
    told = [{re.sub(r"/|\.py", "", name) for name in line.split()} for line in drawn]
    assert told == [layer for layers in layers_of_the_contracts() for layer in layers]


def steps_of(workflow):
    return [step for job in yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_there_is(workflow):
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    lines = [line for step in steps_of(workflow) for line in step.get("run", "").splitlines()]
    called = {target for line in lines for target in re.findall(r"^make ([\w-]+)", line)}
    scripts = {line for line in lines if line.startswith(".ci/")}
    assert called <= targets
    assert all((REPOSITORY / script).is_file() for script in scripts)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_says_more_and_ends_in_time(workflow):
    told = yaml.safe_load(workflow.read_text("utf-8"))
    assert told["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in told["jobs"].values())
    assert all("@" in step["uses"] for step in steps_of(workflow) if "uses" in step)


def test_every_supported_python_is_tested_on_three_systems():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert {job["runs-on"].partition("-")[0] for job in jobs.values()} == {"ubuntu", "macos", "windows"}
    lowest = settings()["project"]["requires-python"].removeprefix(">=")
    for job in jobs.values():
        assert job["strategy"]["matrix"]["python"] == [lowest, "3.12", "3.13", "3.14"]


def test_the_hooks_before_a_commit_are_those_of_make_lint():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    run = {hook["entry"].removeprefix(".venv/bin/").partition(" --")[0] for hook in hooks}
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)[1]
    assert run == {re.sub(r" --check| \.$", "", line) for line in re.findall(r"\$\(BIN\)/(.*)", recipe)}


def test_forms_ask_for_something():
    for form in FORMS:
        told = yaml.safe_load(form.read_text("utf-8"))
        assert form.name == "config.yml" or {field["type"] for field in told["body"]} >= {"textarea"}


def test_the_changelog_keeps_its_form():
    text = read("CHANGELOG.md")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= SECTIONS
    assert all(part.lstrip().startswith("- ") for part in re.split(r"^### .*$", text, flags=re.MULTILINE)[1:])


def test_the_citation_names_this_version():
    told = yaml.safe_load(read("CITATION.cff"))
    assert told["cff-version"] == "1.2.0"
    assert told["version"] == sightline.__version__
    assert told["authors"] == [{"name": "The Sightline authors"}]


@pytest.mark.parametrize("document", ["SECURITY.md", "CONTRIBUTING.md"])
def test_links_of_a_document_lead_to_files(document):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", read(document))
    assert targets
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []
