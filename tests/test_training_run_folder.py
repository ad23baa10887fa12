import errno
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sightline.errors import TrainingError
from sightline.kit import files
from sightline.lab.training.run_folder import Trained, load_checkpoint, newest_checkpoint, read_state, save_checkpoint


def make_trained(width=3, *, seed=0, steps=2, average=None):
    """A layer with batch norm's kind of buffers, and an optimiser that has made some steps."""
    torch.manual_seed(seed)
    model, objective = nn.Sequential(nn.Linear(width, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1)
    optimiser = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(model(torch.randn(4, width))).square().sum().backward()
        optimiser.step()
    return Trained(modules={"model": model, "objective": objective}, optimiser=optimiser, average=average)


def save(run, step, trained=None, *, keep=9, state=None):
    return save_checkpoint(run, step, trained or make_trained(), state=state or {}, keep=keep)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def full_disk(*_args, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_all_that_a_run_needs_comes_back_in_place(tmp_path):
    average = {"0.weight": torch.randn(2, 3)}
    written = make_trained(average=average)
    folder = save(tmp_path, 12, written, state={"best": 0.25, "data": "abc"})
    assert folder == newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-12"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    state = read_state(folder)
    assert (state["step"], state["best"], state["data"]) == (12, 0.25, "abc")

    read = make_trained(seed=1, steps=1, average={"0.weight": torch.zeros(2, 3)})
    weight = read.modules["model"][0].weight
    assert torch.equal(load_checkpoint(folder, read)["0.weight"], average["0.weight"])
    assert read.modules["model"][0].weight is weight
    for name in ("model", "objective"):
        for key, value in written.modules[name].state_dict().items():
            assert torch.equal(value, read.modules[name].state_dict()[key]), key
    before, after = written.optimiser.state_dict()["state"], read.optimiser.state_dict()["state"]
    assert before.keys() == after.keys() == set(range(6))
    for index, values in before.items():
        for name, value in values.items():
            assert torch.equal(value, after[index][name]), (index, name)


def test_a_step_after_loading_equals_the_step_that_would_have_followed(tmp_path):
    written, read = make_trained(), make_trained(seed=1, steps=1)
    load_checkpoint(save(tmp_path, 1, written), read)
    for trained in (written, read):
        trained.optimiser.zero_grad()
        inputs = torch.linspace(-1, 1, 12).reshape(4, 3)
        trained.modules["objective"](trained.modules["model"](inputs)).square().sum().backward()
        trained.optimiser.step()
    assert torch.equal(written.modules["model"][0].weight, read.modules["model"][0].weight)


def test_a_run_without_an_average_neither_writes_nor_reads_one(tmp_path):
    folder = save(tmp_path, 1)
    assert not (folder / "average.safetensors").exists()
    assert load_checkpoint(folder, make_trained()) is None


@pytest.mark.parametrize("failing_write", [1, 2, 3])
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(tmp_path, monkeypatch, failing_write):
    earlier = save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in earlier.iterdir()}
    writes = []

    def write(tensors, path):
        writes.append(path)
        (full_disk if len(writes) == failing_write else save_file)(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", write)
        with pytest.raises(TrainingError, match=r"step 2 .*No space left on device.*step-1 is whole.*--resume"):
            save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-1"]
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-2"]


def test_a_full_disk_before_the_first_checkpoint_says_that_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_json", full_disk)
    with pytest.raises(TrainingError, match="There is no earlier one"):
        save(tmp_path, 1)
    assert names(tmp_path) == []
    assert newest_checkpoint(tmp_path) is None


def test_what_a_killed_process_left_half_written_is_never_taken_for_a_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert newest_checkpoint(tmp_path).name == "step-1"
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-1", "step-2"]


def test_what_a_killed_process_left_is_removed_with_the_next_checkpoint(tmp_path):
    left = tmp_path / "checkpoints" / ".step-2.4711.partial"
    left.mkdir(parents=True)
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-3"]


def test_only_the_newest_are_kept_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10, 11):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-10", "step-11"]
    save(tmp_path, 100, keep=3)
    assert newest_checkpoint(tmp_path).name == "step-100"
    assert names(tmp_path) == ["step-10", "step-100", "step-11"]


def test_other_things_beside_the_checkpoints_are_left_alone(tmp_path):
    save(tmp_path, 3)
    for name in ("step-99-mine", "notes", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert newest_checkpoint(tmp_path).name == "step-3"
    save(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["notes", "step-4", "step-99-mine", "step-x"]


def test_a_folder_without_checkpoints_has_no_newest(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_the_same_step_is_written_anew(tmp_path):
    save(tmp_path, 5, state={"best": 1})
    assert read_state(save(tmp_path, 5, state={"best": 2}))["best"] == 2
    assert names(tmp_path) == ["step-5"]


@pytest.mark.parametrize("damage", ["", '{"format": 1, "st', "[]", "\udcff"])
def test_a_damaged_state_names_the_checkpoint_and_what_to_do(tmp_path, damage):
    folder = save(tmp_path, 1)
    (folder / "state.json").write_bytes(damage.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(TrainingError, match=r"step-1 is damaged .*Delete it, and --resume"):
        read_state(folder)


def test_a_missing_state_is_damage_too(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "state.json").unlink()
    with pytest.raises(TrainingError, match="is damaged"):
        read_state(folder)


def test_a_checkpoint_of_another_format_names_both(tmp_path):
    folder = save(tmp_path, 1)
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(TrainingError, match=r"format 2, this version of Sightline writes 1.*another folder"):
        read_state(folder)


@pytest.mark.parametrize("name", ["model", "objective", "optimiser", "average"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_cut_file_is_named(tmp_path, name, damage):
    trained = make_trained(average={"0.weight": torch.ones(2, 3)})
    path = save(tmp_path, 1, trained) / f"{name}.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.unlink()
    with pytest.raises(
        TrainingError, match=rf"{name}\.safetensors can't be read .*--resume goes on from the one before"
    ):
        load_checkpoint(path.parent, trained)


@pytest.mark.parametrize("width", [4, 3])
def test_weights_of_another_model_are_refused(tmp_path, width):
    folder = save(tmp_path, 1)
    other = make_trained(width)
    if width == 3:
        other = Trained(modules={"model": nn.Linear(3, 2)}, optimiser=other.optimiser)
    with pytest.raises(TrainingError, match="model: these are the weights of another model"):
        load_checkpoint(folder, other)


@pytest.mark.parametrize("change", ["wider", "more", "weights", "without moments"])
def test_the_optimiser_of_other_parameters_is_refused(tmp_path, change):
    folder = save(tmp_path, 1)
    path = folder / "optimiser.safetensors"
    tensors = load_file(folder / "model.safetensors" if change == "weights" else path)
    if change == "wider":
        tensors["0.exp_avg"] = torch.zeros(2, 9)
    if change == "more":
        tensors |= {key.replace("0.", "6.", 1): value + 1 for key, value in tensors.items() if key.startswith("0.")}
    if change == "without moments":
        del tensors["3.exp_avg"]
    save_file(tensors, path)
    with pytest.raises(TrainingError, match="the optimiser's state is that of another model"):
        load_checkpoint(folder, make_trained())
