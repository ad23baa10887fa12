"""The Hugging Face hub, behind three verbs: what is cached, what would be downloaded, download.

Only safetensors, JSON, text and ONNX files are ever asked for: pickles (`.bin`, `.pt`) can run code when loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, errors, snapshot_download
from huggingface_hub.constants import is_offline_mode

from sightline.errors import ModelError

_LOOK_UP_TIMEOUT_S = 20.0


def cached_snapshot(repo: str, *, revision: str, patterns: Sequence[str]) -> Path | None:
    """Folder of the cached snapshot of a repository, without touching the network; None where there is none.

    The folder may lack files that were never asked for: callers look for those that they need.
    """
    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(patterns), local_files_only=True)
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        return None
    return Path(str(folder))


def download_snapshot(repo: str, *, revision: str, patterns: Sequence[str]) -> Path:
    """Download what is missing of a repository, with progress on stderr and resume; gives the snapshot's folder.

    Raises ModelError where the hub can't be reached or has no such repository, revision or permission.
    """
    try:
        _look_up(repo, revision=revision)
        return Path(str(snapshot_download(repo, revision=revision, allow_patterns=list(patterns))))
    except Exception as error:  # what is raised depends on the HTTP library underneath, which changes
        raise hub_error(repo, revision, error) from error


def download_size(repo: str, *, revision: str, patterns: Sequence[str]) -> int:
    """Bytes that `download_snapshot` would fetch now. Raises the same ModelErrors."""
    try:
        _look_up(repo, revision=revision)
        files = snapshot_download(repo, revision=revision, allow_patterns=list(patterns), dry_run=True)
    except Exception as error:
        raise hub_error(repo, revision, error) from error
    return sum(file.file_size or 0 for file in files if file.will_download)


def _look_up(repo: str, *, revision: str) -> None:
    """Ask for the repository once, so that an unreachable hub is told at once and not after five noisy retries."""
    if not is_offline_mode():
        HfApi().model_info(repo, revision=revision, timeout=_LOOK_UP_TIMEOUT_S)


def hub_answers(repo: str, *, timeout_s: float) -> bool:
    """True where the hub tells of a repository within the time given."""
    if is_offline_mode():
        return False
    try:
        HfApi().model_info(repo, timeout=timeout_s)
    except Exception:  # whatever went wrong, the answer to the question is no
        return False
    return True


def hub_error(repo: str, revision: str, error: Exception) -> ModelError:
    """One readable error, with the ways on, for whatever huggingface_hub or the network raised."""
    if isinstance(error, errors.GatedRepoError):
        return ModelError(f"{repo} asks for permission: accept its terms on huggingface.co, then `hf auth login`.")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ModelError(f"The hub has no public model {repo!r}. Check the name, or `hf auth login` if it is private.")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo} has no revision {revision!r}. Name one as hf:{repo}@REVISION.")
    told = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    reason = "offline mode is on (HF_HUB_OFFLINE)" if is_offline_mode() else told
    return ModelError(
        f"{repo} is not in the cache and the Hugging Face hub can't be reached: {reason}. Ways on: "
        "the model `starter`, which ships with Sightline; `dir:PATH`, a model folder copied from elsewhere; "
        "a cache filled on another machine (copy it and set HF_HOME); or, once online, `sightline models pull NAME`."
    )
