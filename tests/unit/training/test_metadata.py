from __future__ import annotations

import json
import subprocess
from pathlib import Path

from coordexp.training.metadata import RunFacts, add_resume, describe_git, write_metadata
from coordexp.types.files import file_sha256


def facts(**config: object) -> RunFacts:
    return RunFacts(
        config_path=Path("a.yaml"),
        config_files=[(Path("a.yaml"), "ab" * 32)],
        resolved_config={"training": {"max_steps": 3, "hub_token": "hf_secretsecretsecret", **config}},
        overrides=["training.hub_token=hf_secretsecretsecret"],
        argv=["coordexp", "train", "--hub-token", "hf_secretsecretsecret"],
        world_size=1,
        seeds={"seed": 3},
    )


def test_all_facts_are_there_and_no_secret(tmp_path: Path) -> None:
    write_metadata(tmp_path / "m.json", facts())
    text = (tmp_path / "m.json").read_text()
    document = json.loads(text)
    assert "hf_secret" not in text
    expected = {"git", "config_path", "config_files", "config", "command", "packages", "host", "world_size", "seeds", "resumes"}
    assert expected <= document.keys()
    assert {"sha", "branch", "dirty", "reason"} == document["git"].keys()
    assert document["packages"]["torch"]


def test_a_resume_is_noted_with_what_changed(tmp_path: Path) -> None:
    write_metadata(tmp_path / "m.json", facts())
    changed = add_resume(tmp_path / "m.json", facts(max_steps=5), checkpoint=Path("checkpoint-2"), step=2)
    (entry,) = json.loads((tmp_path / "m.json").read_text())["resumes"]
    assert changed == ["training.max_steps"]
    assert entry["changed_settings"] == {"training.max_steps": {"before": 3, "now": 5}}
    assert (entry["checkpoint"], entry["step"]) == ("checkpoint-2", 2)


def test_a_checkout_is_described(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "__init__.py").write_text("")
    git("init", "-b", "trunk")
    git("add", ".")
    git("commit", "-m", "first")
    clean = describe_git(tmp_path)
    (tmp_path / "__init__.py").write_text("x = 1")
    assert (clean["branch"], clean["dirty"], clean["reason"], len(clean["sha"])) == ("trunk", False, None, 40)
    assert describe_git(tmp_path)["dirty"] is True


def test_outside_a_checkout_the_flag_is_null_with_a_reason(tmp_path: Path) -> None:
    assert describe_git(tmp_path) == {"sha": None, "branch": None, "dirty": None, "reason": "the package does not run from a git checkout"}


def test_files_are_named_by_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert file_sha256(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
