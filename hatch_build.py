"""What a package's page on an index says: README with links that work there, and the addresses of the project.

Neither stands in `pyproject.toml`, since both follow from where the repository lives: the build asks its surroundings.
Where nothing tells, README's links stay relative and no address is claimed. An sdist holds what was found when it was
made, and hatchling takes it from there.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "SIGHTLINE_REPOSITORY_URL"
CLONE_PLACEHOLDER = "git clone ADDRESS"
"""README can't know its own repository; on a package's page the address is filled in."""

_IMAGES = (".gif", ".jpg", ".jpeg", ".png", ".svg", ".webp")
_TARGET = re.compile(r'(\]\(|^\[[^\]]+\]: +|\b(?:src|href)=")(?![a-z][a-z0-9+.-]*:|//|#)([^)"\s]+)', re.MULTILINE)
"""What a link or a picture of Markdown or HTML points at, where that is relative, after what stands before it."""
_SCP_ADDRESS = re.compile(r"(?:[^@/]+@)?([\w-]+(?:\.[\w-]+)+):(?!/)(.+)")
"""`git@host:owner/name`, ssh's own way."""


class SightlineMetadata(MetadataHookInterface):
    """Sets the fields `readme` and `urls`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what isn't there yet: an sdist brings both fields along."""
        root = Path(self.root)
        address = "" if _is_sdist(root) else find_repository(root, os.environ)
        ref = find_ref(root, os.environ) if address else ""
        if "readme" not in metadata:
            text = (root / "README.md").read_text(encoding="utf-8")
            text = make_absolute(text, address=address, ref=ref) if address else text
            metadata["readme"] = {"content-type": "text/markdown", "text": text}
        if "urls" not in metadata:
            metadata["urls"] = make_urls(address, ref) if address else {}


def find_repository(root: Path, environment: Mapping[str, str]) -> str:
    """The https address of the repository, without credentials; empty where nothing tells.

    The variable `SIGHTLINE_REPOSITORY_URL` counts before what GitHub Actions sets, that before git's `origin`. Raises
    ValueError where the variable holds no address.
    """
    if named := environment.get(VARIABLE):
        if address := clean_address(named):
            return address
        raise ValueError(f"{VARIABLE} is no address of a repository; give one such as https://host/owner/name.")
    if name := environment.get("GITHUB_REPOSITORY"):
        return clean_address(f"{environment.get('GITHUB_SERVER_URL') or 'https://github.com'}/{name}")
    return clean_address(_ask_git(root, "remote", "get-url", "origin"))


def find_ref(root: Path, environment: Mapping[str, str]) -> str:
    """The tag or the commit that is built, so that a version's page shows that version's pictures."""
    if environment.get("GITHUB_REPOSITORY"):
        is_tag = environment.get("GITHUB_REF_TYPE") == "tag"
        found = environment.get("GITHUB_REF_NAME" if is_tag else "GITHUB_SHA")
    else:
        found = _ask_git(root, "describe", "--tags", "--exact-match") or _ask_git(root, "rev-parse", "HEAD")
    return found or "HEAD"


def clean_address(address: str) -> str:
    """`git@host:owner/name.git`, `ssh://...` or `https://user:token@...` -> `https://host/owner/name`.

    Empty for a folder and whatever else no browser opens.
    """
    address = address.strip()
    if "://" not in address and (scp := _SCP_ADDRESS.fullmatch(address)):
        address = f"ssh://{scp[1]}/{scp[2]}"
    try:
        parts = urlsplit(address)
        port = parts.port if parts.scheme in ("https", "http") else None
    except ValueError:  # brackets or a port that are none
        return ""
    path = parts.path.strip("/").removesuffix(".git")
    if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname or not path:
        return ""
    return f"https://{parts.hostname}{f':{port}' if port else ''}/{path}"


def make_absolute(text: str, *, address: str, ref: str) -> str:
    """README with every relative link led into the repository: to a file's page, or to a picture itself.

    The paths are GitHub's; GitLab leads them on to its own.
    """

    def lead(match: re.Match[str]) -> str:
        before, target = match.groups()
        kind = "raw" if target.lower().endswith(_IMAGES) else "blob"
        return f"{before}{address}/{kind}/{ref}/{target.removeprefix('./')}"

    return _TARGET.sub(lead, text).replace(CLONE_PLACEHOLDER, f"git clone {address}")


def make_urls(address: str, ref: str) -> dict[str, str]:
    """The project's addresses, as a package index lists them. The changelog is the newest: it tells what came since."""
    return {
        "Documentation": f"{address}/tree/{ref}/docs",
        "Source": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
    }


def _is_sdist(root: Path) -> bool:
    return (root / "PKG-INFO").is_file()


def _ask_git(root: Path, *arguments: str) -> str:
    """One line that git says of this checkout. A folder in another project's checkout is none."""
    if not (root / ".git").exists():
        return ""
    try:
        asked = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
