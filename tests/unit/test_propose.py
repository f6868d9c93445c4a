"""The least policy that would let a run pass, on a disk that is not there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.machines import HOME, OWN, ROOT
from vsbox.guard import propose as module
from vsbox.guard.propose import CREDENTIAL, Disk, NotSeenError, Proposal, Proposer, names_below
from vsbox.guard.records import NETWORK, Record

DIRECTORIES = {
    f"{HOME}/.cache/thing", f"{HOME}/.config/thing", f"{HOME}/.cache/huggingface", f"{HOME}/work", f"{HOME}/photos",
    "/opt/data", "/srv/models",
}  # fmt: skip
MISSING = {"/gone", "/gone/file"}
MARKS = ("/pyvenv.cfg", "/conda-meta", "/sandbox.json", "/sandbox/exec", "/HEAD")
LINKS = {f"{HOME}/link": "/srv/models"}


def disk() -> Disk:
    return Disk(
        is_directory=lambda path: path in DIRECTORIES,
        exists=lambda path: path not in MISSING and not path.endswith(MARKS),
        real=lambda path: LINKS.get(path, path),
    )


def record(operation: str, target: str, **keys: Any) -> Record:
    given = {
        "time": 1.0, "pid": 2, "verdict": "denied", "chain": (), "distribution": "thing 1.0", "where": "",
        "program": "p", "rule": "not granted", "allow": "", "layer": "seccomp",
    }  # fmt: skip
    return Record(operation=operation, target=target, **(given | keys))


def propose(*denied: tuple[str, str], **keys: Any) -> Proposal:
    return Proposer(ROOT, HOME, (OWN,), disk()).propose(record(*pair, **keys) for pair in denied)


def lines(proposal: Proposal) -> list[tuple[str, str]]:
    return [(item.key, item.value) for item in proposal.items]


PROPOSED = {
    "a file that is read": ([("read", "/srv/models/a")], [("read_only_paths", "/srv/models/a")]),
    "a file that is changed": ([("write", f"{HOME}/work/a")], [("allowed_paths", f"{HOME}/work/a")]),
    "a file that is made": ([("create", f"{HOME}/work/a")], [("allowed_paths", f"{HOME}/work")]),
    "a cache of its own": ([("read", f"{HOME}/.cache/thing/x/y")], [("read_only_paths", f"{HOME}/.cache/thing")]),
    "a cache that it fills": (
        [("read", f"{HOME}/.cache/thing/x"), ("create", f"{HOME}/.cache/thing/y/z")],
        [("allowed_paths", f"{HOME}/.cache/thing")],
    ),
    "three neighbours": ([("read", f"/opt/data/{n}") for n in "abc"], [("read_only_paths", "/opt/data")]),
    "two neighbours": (
        [("read", f"/opt/data/{n}") for n in "ab"],
        [("read_only_paths", "/opt/data/a"), ("read_only_paths", "/opt/data/b")],
    ),
    "what is below something else": (
        [("list", "/opt/data"), ("read", "/opt/data/a")],
        [("read_only_paths", "/opt/data")],
    ),
    "what was looked at on the way": (
        [("look", "/opt"), ("look", "/opt/data"), ("read", "/opt/data/a")],
        [("read_only_paths", "/opt/data/a")],
    ),
    "read below written": (
        [("create", f"{HOME}/work/a"), ("read", f"{HOME}/work/b")],
        [("allowed_paths", f"{HOME}/work")],
    ),
}


@pytest.mark.parametrize(("denied", "expected"), PROPOSED.values(), ids=PROPOSED)
def test_what_is_needed_is_proposed(denied: list[tuple[str, str]], expected: list[tuple[str, str]]) -> None:
    found = propose(*denied)
    assert lines(found) == expected
    assert not found.refused
    assert found.items[0].needed_by == ("thing 1.0",)


CREDENTIALS = (
    f"{HOME}/.ssh/id_ed25519", f"{HOME}/.ssh/config", f"{HOME}/.aws/credentials", f"{HOME}/.netrc", f"{HOME}/.pypirc",
    f"{HOME}/.mozilla/firefox/profiles.ini", f"{HOME}/.config/google-chrome-beta/Default/Cookies",
    f"{HOME}/.bash_history",
    f"{HOME}/.local/share/keyrings/login.keyring", f"{HOME}/.cache/huggingface/token", f"{HOME}/work/server.pem",
    f"{HOME}/work/.env", "/etc/shadow", "/etc/shadow-", "/run/secrets/x", "/root/.ssh/id_rsa",
    "/home/other/.ssh/config",
    "/var/run/docker.sock", f"{HOME}/work/secrets/plain.txt", "/opt/app/api_token", f"{HOME}/.docker/config.json",
    f"{HOME}/.Xauthority", f"{HOME}/work/token.json", f"{HOME}/work/GitHub_Token.txt", f"{HOME}/work/tokens.json",
    f"{HOME}/work/client_secret_12.json", f"{HOME}/work/service-account-prod.json", f"{HOME}/work/my_secret.txt",
    f"{HOME}/work/api_key.txt", f"{HOME}/work/prod.env", f"{HOME}/work/.env.local", f"{HOME}/work/.envrc",
    f"{HOME}/work/kubeconfig", f"{HOME}/work/a.gpg", f"{HOME}/work/a.asc", f"{HOME}/work/a.PPK",
    f"{HOME}/work/a.keytab",
    f"{HOME}/work/Server.PEM", f"{HOME}/.config/hcloud/cli.toml", f"{HOME}/.config/ngrok/ngrok.yml",
    f"{HOME}/.config/github-copilot/hosts.json", f"{HOME}/.config/scw/config.yaml", f"{HOME}/.config/1Password/x",
    f"{HOME}/.config/Code/User/globalStorage/state.vscdb", f"{HOME}/.config/wireguard/wg0.conf",
    f"{HOME}/.config/filezilla/sitemanager.xml", f"{HOME}/.local/share/python_keyring/keyring_pass.cfg",
    f"{HOME}/.local/share/gnupg/x", f"{HOME}/.local/share/TelegramDesktop/tdata/x", f"{HOME}/.local/share/pass/a",
    f"{HOME}/.password-store/a", f"{HOME}/.fly/config.yml", f"{HOME}/.vault_pass.txt", f"{HOME}/.msmtprc",
    f"{HOME}/.pgpass", f"{HOME}/.SSH/config", "/srv/my-packages/id_rsa", f"{HOME}/work/credentials/prod.json",
    f"{HOME}/work/passwords/a", f"{HOME}/.local/share/jupyter/runtime/kernel-1.json",
    f"{HOME}/.config/mozilla/firefox/x",
)  # fmt: skip


@pytest.mark.parametrize("path", CREDENTIALS)
@pytest.mark.parametrize("operation", ["read", "write", "look"])
def test_a_credential_is_never_proposed(operation: str, path: str) -> None:
    found = propose((operation, path))
    assert not found.items
    assert [(entry.reason, entry.is_credential) for entry in found.refused] == [(CREDENTIAL, True)]


def test_a_directory_that_holds_a_credential_is_not_proposed_as_a_whole() -> None:
    found = propose(*(("read", f"{HOME}/.cache/huggingface/hub/{n}") for n in "ab"))
    assert lines(found) == [("read_only_paths", f"{HOME}/.cache/huggingface/hub/{n}") for n in "ab"]
    below_home = propose(*(("read", f"{HOME}/{n}") for n in ("a", "b", "c", "d")))
    assert all(item.value != HOME for item in below_home.items)


NAMES_THAT_ONLY_SOUND = (
    "tokenizer.json", "tokenizer_config.json", "tokenization.py", "keyboard", "monkey.txt", "keys.csv", "tokens.py",
    "special_tokens_map.json", "added_tokens.json", "train_tokens.npy", "environment.yml", "environ.csv", "env.txt",
    "lib/site-packages/secretstorage/x", "lib/site-packages/certifi/cacert.pem", "lib/dist-packages/jose/secrets/a",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES_THAT_ONLY_SOUND)
def test_data_is_no_credential(name: str) -> None:
    assert propose(("read", f"/srv/models/{name}")).items


REFUSED = {
    "the home": ("list", HOME, "too broad"),
    "a file in the home": ("create", f"{HOME}/out.txt", "too broad"),
    "the root": ("list", "/", "too broad"),
    "a file in /etc": ("create", "/etc/new", "too broad"),
    "the box": ("write", f"{ROOT}/lib/x.py", "the box itself"),
    "vsbox itself": ("write", f"{OWN}/lib/x.py", "what runs outside"),
    "through a link": ("list", f"{HOME}/link", "symbolic link to /srv/models"),
    "another process": ("read", "/proc/7/environ", "the kernel's own"),
    "a setting of the kernel": ("write", "/proc/sys/kernel/core_pattern", "the kernel's own"),
    "what is gone": ("read", "/gone", "does not exist"),
    "an abstract socket": ("connect", "@name", "cannot be granted"),
}


@pytest.mark.parametrize(("operation", "target", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_person_must_decide(operation: str, target: str, reason: str) -> None:
    found = propose((operation, target))
    assert not found.items
    assert [reason in entry.reason for entry in found.refused] == [True]
    assert not found.refused[0].is_credential


def test_calls_and_protected_names_are_not_proposed() -> None:
    assert not propose(("call", "ptrace"), rule="system call: reads other processes").items
    assert not propose(("write", f"{HOME}/work/.git/config"), rule="protected in the project: ...").items


def test_the_network_is_proposed_once() -> None:
    found = propose(("connect", "192.0.2.1 port 9"), ("resolve", "example.org"), rule=NETWORK)
    assert lines(found) == [("network", "host")]


NOT_FOR_WRITING = (
    ("write", f"{HOME}/.bashrc"), ("write", f"{HOME}/.gitconfig"), ("create", f"{HOME}/.local/bin/x"),
    ("create", f"{HOME}/.config/systemd/user/x.service"), ("create", f"{HOME}/.config/autostart/x.desktop"),
    ("create", f"{HOME}/.local/lib/python3.11/site-packages/x.pth"), ("create", f"{HOME}/.cache/uv/wheels/x"),
    ("create", f"{HOME}/work/.git/hooks/post-commit"), ("write", f"{HOME}/work/.vscode/tasks.json"),
    ("create", "/etc/cron.d/x"), ("create", "/usr/local/bin/x"), ("write", "/var/spool/cron/crontabs/root"),
    ("create", "/home/other/x"), ("write", "/home/other/.profile"), ("write", "/root/.profile"),
    ("create", "/srv/tools/x"),
)  # fmt: skip


@pytest.mark.parametrize(("operation", "target"), NOT_FOR_WRITING)
def test_what_the_users_tools_execute_is_not_proposed_for_writing(operation: str, target: str) -> None:
    proposer = Proposer(ROOT, HOME, (OWN,), disk(), commands=("/srv/tools",))
    found = proposer.propose([record(operation, target)])
    assert not found.items
    assert found.refused


def test_what_the_user_has_hidden_is_not_proposed() -> None:
    hidden = "/srv/data/private"
    proposer = Proposer(ROOT, HOME, (OWN,), disk(), hidden=(hidden,))
    assert not proposer.propose([record("read", hidden), record("read", f"{hidden}/a"), record("write", hidden)]).items
    beside = [("read", f"/srv/data/{n}") for n in ("private2", "b", "c")]
    assert "/srv/data" not in [item.value for item in proposer.propose(record(*pair) for pair in beside).items]


def test_a_directory_is_looked_through_before_it_is_proposed() -> None:
    held = {"/opt/data": ["/opt/data/a", "/opt/data/deep/id_rsa"], f"{HOME}/photos": [f"{HOME}/photos/secrets.py"]}
    looked = Disk(
        is_directory=lambda path: path in DIRECTORIES,
        exists=lambda path: path not in MISSING and "/.config/" not in path and not path.endswith(MARKS),
        real=lambda path: path,
        below=lambda path: held.get(path, ()),
    )
    proposer = Proposer(ROOT, HOME, (OWN,), looked)
    listed = proposer.propose([record("list", "/opt/data"), record("list", f"{HOME}/photos")])
    assert lines(listed) == [("read_only_paths", f"{HOME}/photos")]
    assert "/opt/data/deep/id_rsa" in listed.refused[0].reason
    merged = proposer.propose(record("read", f"/opt/data/{n}") for n in "abc")
    assert lines(merged) == [("read_only_paths", f"/opt/data/{n}") for n in "abc"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2K", "a\u202eb", "a\u2028b", "a\x9bb"])
def test_a_name_that_cannot_be_shown_is_not_proposed(name: str) -> None:
    assert not propose(("read", f"/srv/models/{name}")).items


def test_sockets_are_not_proposed() -> None:
    assert not propose(("connect", "/srv/app/agent.sock")).items


def test_looking_through_says_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my-packages/id_rsa", "lib/site-packages/certifi/cacert.pem", "a", "b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {os.path.relpath(path, tmp_path) for path in names_below(str(tmp_path))}
    assert found == {"my-packages", "my-packages/id_rsa", "lib", "lib/site-packages", "a", "b"}
    monkeypatch.setattr(module, "MOST_LOOKED_AT", 5)
    with pytest.raises(NotSeenError, match="more than 5"):
        list(names_below(str(tmp_path)))
    monkeypatch.setattr(module, "MOST_LOOKED_AT", 100)

    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(NotSeenError, match="cannot be read"):
        list(names_below(str(tmp_path)))


def unseen(path: str) -> Iterator[str]:
    yield f"{path}/a"
    raise NotSeenError("it holds more than 3 files")


def test_what_was_not_looked_through_is_not_proposed_as_a_whole() -> None:
    proposer = Proposer(ROOT, HOME, (OWN,), dataclasses.replace(disk(), below=unseen))
    listed = proposer.propose([record("list", "/opt/data"), record("create", f"{HOME}/work/a")])
    assert not listed.items
    assert all("not looked through to its end: it holds more than 3" in entry.reason for entry in listed.refused)
    merged = proposer.propose(record("read", f"/opt/data/{n}") for n in "abc")
    assert lines(merged) == [("read_only_paths", f"/opt/data/{n}") for n in "abc"]


@pytest.fixture
def person(tmp_path: Path) -> Path:
    """A home with a box, environments and repositories beside data."""
    home = Path(os.path.realpath(tmp_path)) / "home"
    for name in (
        "victim/sandbox/exec", "victim/bin/python", "victim/home/x", "half/sandbox/sandbox.json", "venvx/pyvenv.cfg",
        "venvx/bin/activate", "venvx/lib/site-packages/a.py", "conda/conda-meta/history", "conda/bin/python",
        "repo/.git/config", "repo/out/x", "bare/HEAD", "bare/objects/x", "bare/refs/x", "bare/hooks/post-update",
        "boxes/deep/victim/sandbox/exec", "envs/py/pyvenv.cfg", "src/deep/repo/.git/HEAD", "bares/a/HEAD",
        "bares/a/objects/x", "bares/a/refs/x", "plain/sub/x", "lib/site-packages/x.pth", "hooked/.envrc",
        ".cache/tool/envs/py/pyvenv.cfg", ".cache/tool/data/x", "head/HEAD", "own/sandbox/exec",
    ):  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    (home / "current").mkdir()
    (home / "current" / "env").symlink_to("../envs/py")
    return home


EXECUTED = (
    ("write", "victim/bin/python"), ("create", "victim/bin/new"), ("write", "victim/sandbox/sandbox.json"),
    ("write", "victim/home/x"), ("create", "victim/new"), ("create", "half/new"), ("create", "venvx/new"),
    ("write", "venvx/bin/activate"), ("create", "venvx/bin/new"), ("create", "venvx/lib/site-packages/x.pth"),
    ("write", "venvx/lib/site-packages/a.py"), ("write", "conda/bin/python"), ("create", "repo/new"),
    ("write", "repo/.git/config"), ("create", "bare/hooks/post-commit"), ("write", "bare/hooks/post-update"),
    ("create", "boxes/new"), ("create", "boxes/deep/new"), ("create", "envs/new"), ("create", "src/new"),
    ("create", "bares/new"), ("create", "lib/new"), ("write", "lib/site-packages/x.pth"), ("create", "hooked/new"),
    ("create", "current/new"),
)  # fmt: skip


@pytest.mark.parametrize(("operation", "target"), EXECUTED)
def test_what_is_executed_outside_is_never_proposed_for_writing(person: Path, operation: str, target: str) -> None:
    found = Proposer(str(person / "own"), str(person)).propose([record(operation, str(person / target))])
    assert not found.items
    assert "execute" in found.refused[0].reason


HARMLESS = {
    "a part of a repository": (("create", "repo/out/new"), "repo/out"),
    "a file of it": (("write", "repo/out/x"), "repo/out/x"),
    "data": (("create", "plain/new"), "plain"),
    "what only has the name": (("create", "head/new"), "head"),
    "the part of a cache without environments": (("create", ".cache/tool/data/new"), ".cache/tool/data"),
}


@pytest.mark.parametrize(("denied", "proposed"), HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_beside_it_is(person: Path, denied: tuple[str, str], proposed: str) -> None:
    found = Proposer(str(person / "own"), str(person)).propose([record(denied[0], str(person / denied[1]))])
    assert lines(found) == [("allowed_paths", str(person / proposed))]


def test_what_was_not_looked_through_is_not_proposed_for_writing(person: Path) -> None:
    looked = Disk(below=unseen)
    found = Proposer(str(person / "own"), str(person), disk=looked).propose([record("create", f"{person}/plain/new")])
    assert not found.items
    assert "not looked through" in found.refused[0].reason


def test_looking_through_much_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IN_ALL", 100)
    looked = dataclasses.replace(disk(), is_directory=lambda _: True, below=lambda path: [f"{path}/a"] * 60)
    listed = Proposer(ROOT, HOME, (OWN,), looked).propose(record("list", f"/srv/models/{n}") for n in "ab")
    assert lines(listed) == [("read_only_paths", "/srv/models/a")]
    assert "looked through already" in listed.refused[0].reason


@pytest.mark.parametrize(
    "path",
    [
        "bin/tool", "go/bin/tool", "node_modules/.bin/tsc", "R/x86_64-library/x", "Desktop/a.desktop",
        ".cache/ms-playwright/chromium/chrome", ".cache/node/x", ".cache/huggingface/modules/x.py",
    ],
)  # fmt: skip
def test_nothing_is_proposed_for_writing_where_tools_take_programs_from(path: str) -> None:
    proposal = propose(("create", f"{HOME}/{path}"), ("create", f"/home/other/{path}"))
    assert lines(proposal) == []
    assert len(proposal.refused) == 2


def test_what_HOME_says_is_a_home_too() -> None:  # noqa: N802 - the variable
    proposer = Proposer(ROOT, HOME, (OWN,), disk(), other_homes=("/srv/home",))
    denied = [
        ("read", "/srv/home/.config/gcloud/x.db"), ("create", "/srv/home/.config/autostart/a.desktop"),
        ("list", "/srv/home"), ("create", "/srv/home/bin/a"),
    ]  # fmt: skip
    proposal = proposer.propose(record(*pair) for pair in denied)
    assert lines(proposal) == []
    assert [entry.is_credential for entry in proposal.refused] == [True, False, False, False]


@pytest.mark.parametrize(
    ("has_exceptions", "changed", "instead_of"),
    [(True, (), ()), (True, ("a",), ("a",)), (False, (), ("a", "b")), (False, ("a",), ("a", "b"))],
)
def test_what_is_read_only_goes_where_it_is_to_be_changed(
    has_exceptions: bool, changed: tuple[str, ...], instead_of: tuple[str, ...]
) -> None:
    granted = tuple(f"{HOME}/work/{name}" for name in "ab")
    proposer = Proposer(ROOT, HOME, (OWN,), disk(), read_only=(*granted, "/srv/a"), has_exceptions=has_exceptions)
    denied = [("create", f"{HOME}/work/a.tmp"), *(("rename", f"{HOME}/work/{name}") for name in changed)]
    (item,) = proposer.propose(record(*pair) for pair in denied).items
    assert (item.value, item.instead_of) == (f"{HOME}/work", tuple(f"{HOME}/work/{name}" for name in instead_of))
