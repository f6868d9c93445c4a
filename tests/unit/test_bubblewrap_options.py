"""Options of bwrap as policy: what each comes to, what is refused and how that is said."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from unit.machines import DATA, ROOT, policy
from vsbox.errors import PolicyError
from vsbox.policy.bwrap_options import OPTIONS, Mapped, Mount, apply_bwrap_arguments, backend_for
from vsbox.policy.grants import Access
from vsbox.policy.model import Policy

ME = {"uid": 1000, "gid": 1000}


def mapped(*words: str, **keys: object) -> Mapped:
    return apply_bwrap_arguments(policy(**keys), words, **ME)


CHANGES: list[tuple[str, dict[str, object]]] = [
    (f"--bind {DATA} {DATA}", {"allowed_paths": [DATA]}),
    (f"--bind-try {DATA} {DATA}", {"allowed_paths": [DATA]}),
    (f"--ro-bind {DATA} {DATA}", {"read_only_paths": [DATA]}),
    (f"--ro-bind-try {DATA}/ //{DATA[1:]}", {"read_only_paths": [DATA]}),
    (f"--ro-bind {DATA} {DATA} --bind {DATA} {DATA}", {"allowed_paths": [DATA]}),
    (f"--bind {DATA} {DATA} --ro-bind {DATA} {DATA}", {"read_only_paths": [DATA]}),
    ("--setenv A 1 --setenv B 2 --setenv A 3", {"environment": {"set": {"A": "3", "B": "2"}}}),
    ("--setenv A 1 --unsetenv A", {"environment": {"unset": ["A"]}}),
    ("--unsetenv A --setenv A 1", {"environment": {"unset": ["A"], "set": {"A": "1"}}}),
    ("--setenv A 1 --clearenv --setenv B 2", {"environment": {"unset": ["*"], "set": {"B": "2"}}}),
    ("--unshare-net", {"network": "none"}),
    ("--unshare-all", {"network": "none"}),
    ("--unshare-all --share-net", {"network": "host"}),
    ("--share-net", {"network": "host"}),
    ("--size 8192 --tmpfs /tmp", {"limits": {"tmp_bytes": 8192}}),
    ("--size 1 --tmpfs /dev/shm", {"limits": {"shm_bytes": 4096}}),
]
ALREADY_SO = (
    "--unshare-user", "--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup",
    "--unshare-cgroup-try", "--disable-userns", "--assert-userns-disabled", "--as-pid-1", "--die-with-parent",
    "--new-session", "--cap-drop ALL", "--proc /proc", "--dev /dev/", "--tmpfs /tmp", "--tmpfs /var/tmp",
    "--uid 1000", "--gid 1000",
)  # fmt: skip


@pytest.mark.parametrize(("words", "keys"), CHANGES)
def test_an_option_becomes_a_key(words: str, keys: dict[str, object]) -> None:
    assert mapped(*words.split()).policy == policy(**keys)


@pytest.mark.parametrize("words", ALREADY_SO)
def test_what_every_box_has_is_taken_without_a_word(words: str) -> None:
    assert mapped(*words.split()) == Mapped(policy())


MOUNTS: list[tuple[str, Mount]] = [
    ("--bind /a /b", Mount("bind", "/b", "--bind", "/a")),
    ("--ro-bind /a /b", Mount("bind", "/b", "--ro-bind", "/a", access=Access.READ)),
    ("--ro-bind-try /a /b", Mount("bind", "/b", "--ro-bind-try", "/a", access=Access.READ, optional=True)),
    ("--dev-bind /dev/dri /dev/dri", Mount("bind", "/dev/dri", "--dev-bind", "/dev/dri", device=True)),
    ("--tmpfs /a", Mount("tmpfs", "/a", "--tmpfs")),
    ("--perms 1777 --size 4096 --tmpfs /a", Mount("tmpfs", "/a", "--tmpfs", size=4096, mode=0o1777)),
    ("--dir /a/b", Mount("directory", "/a/b", "--dir", access=Access.READ)),
    ("--symlink ../x /a", Mount("symlink", "/a", "--symlink", "../x", access=Access.READ)),
]


@pytest.mark.parametrize(("words", "mount"), MOUNTS)
def test_what_no_key_can_say_becomes_a_mount(words: str, mount: Mount) -> None:
    found = mapped(*words.split())
    assert found.mounts == (mount,)
    assert found.policy == policy()
    assert found.only_namespaces == (mount.option,)


def test_modifiers_count_for_the_next_mount_only() -> None:
    first, second = mapped(*["--size", "4096", "--perms", "0700", "--tmpfs", "/a", "--tmpfs", "/b"]).mounts
    assert (first.size, first.mode) == (4096, 0o700)
    assert (second.size, second.mode) == (None, 0o755)


def test_settings() -> None:
    found = mapped("--hostname", "h", "--chdir", "/x", "--uid", "0")
    assert (found.hostname, found.directory) == ("h", "/x")
    assert found.only_bubblewrap == ("--uid", "0")
    assert found.only_namespaces == ("--hostname",)


def test_what_may_be_missing_is_said() -> None:
    found = mapped("--bind-try", DATA, DATA, "--ro-bind", "/a", "/a", "--ro-bind-try", "/a", "/a")
    assert found.optional_paths == {DATA, "/a"}
    assert mapped("--bind-try", "/a", "/a", "--bind", "/a", "/a").optional_paths == frozenset()


def test_what_is_hidden_stays_hidden() -> None:
    found = mapped("--bind", DATA, DATA, hidden_paths=[DATA])
    assert found.policy.hidden_paths == (DATA,)
    assert found.policy.allowed_paths == (DATA,)  # grants_of takes the strictest


def test_the_words_are_used_up() -> None:
    given = policy(bwrap_arguments=["--share-net"])
    assert apply_bwrap_arguments(given, given.bwrap_arguments, **ME).policy.bwrap_arguments == ()


REFUSED: list[tuple[str, str]] = [
    ("--ro-bnd /a /a", "unknown option '--ro-bnd'"),
    ("python", "unknown option 'python'"),
    ("--", "unknown option '--'"),
    ("", "unknown option ''"),
    ("--bind /a", "takes 2 words, and 1 follow"),
    ("--setenv A", "takes 2 words, and 1 follow"),
    ("--tmpfs", "takes 1 words, and 0 follow"),
    ("--bind a a", "not absolute"),
    ("--bind /a/../b /b", "not normal"),
    ("--tmpfs /../x", "not normal"),
    ("--setenv A=B 1", "'A=B'"),
    ("--unsetenv 1A", "'1A'"),
    ("--perms 999 --dir /a", "octal"),
    ("--size -1 --tmpfs /a", "not a number"),
    ("--size ٣ --tmpfs /a", "not a number"),
    ("--uid x", "not a number"),
    (f"--hostname {'h' * 65}", "host name"),
    ("--cap-add CAP_NET_ADMIN", "no capabilities"),
    ("--seccomp 3", "syscalls"),
    ("--args 3", "descriptor"),
    ("--bind-fd 3 /a", "descriptor"),
    ("--userns 3", "anew"),
    ("--remount-ro /a", "grants"),
    ("--overlay-src /a", "layers"),
    ("--proc /x", "/proc only"),
    ("--ro-bind /proc /proc", "all processes"),
    ("--ro-bind-try /proc/sys /x", "all processes"),
    ("--bind /sys/power /sys/power", "all processes"),
    ("--dev-bind /sys /x", "all processes"),
    ("--tmpfs /", "its own there"),
    ("--ro-bind /a /proc/x", "its own there"),
    ("--dir /dev", "its own there"),
    (f"--tmpfs {ROOT}", "the box"),
    (f"--ro-bind /a {ROOT}/bin", "the box"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refusals_name_the_option(words: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        mapped(*words.split(" "))
    assert message in str(caught.value)


SLIPS = [("--ro-bnd", "--ro-bind"), ("--setnev", "--setenv"), ("--tmfs", "--tmpfs")]


@pytest.mark.parametrize(("typed", "meant"), SLIPS)
def test_a_slip_of_the_keyboard_is_met_with_advice(typed: str, meant: str) -> None:
    with pytest.raises(PolicyError) as caught:
        mapped(typed)
    assert caught.value.hint == f"did you mean {meant}?"


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(PolicyError, match="NUL"):
        mapped("--setenv", "A", "x\0y")


@pytest.mark.parametrize(
    ("named", "words", "answer"),
    [
        ("auto", (), "auto"),
        ("native", ("--tmpfs", "/x"), "native"),
        ("auto", ("--uid", "0"), "bubblewrap"),
        ("bubblewrap", ("--uid", "0"), "bubblewrap"),
    ],
)
def test_what_only_bubblewrap_has_chooses_it(named: str, words: tuple[str, ...], answer: str) -> None:
    assert backend_for(mapped(*words, backend=named)) == answer


@pytest.mark.parametrize("named", ["native", "landlock"])
def test_what_only_bubblewrap_has_is_refused_by_name_elsewhere(named: str) -> None:
    with pytest.raises(PolicyError, match=f"--exec-label with backend {named}"):
        backend_for(mapped("--exec-label", "x", backend=named))


def test_every_option_of_this_bwrap_is_known() -> None:
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("no bwrap here")
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^\s+(--[a-z0-9-]+)((?: [A-Z]+)*)", text, re.MULTILINE)
    assert len(listed) > 40
    assert {name: len(values.split()) for name, values in listed} == {name: OPTIONS[name][0] for name, _ in listed}


def test_the_policy_stays_what_json_can_say() -> None:
    words = [word for words, _ in CHANGES for word in words.split()]
    found = mapped(*words).policy
    assert msgspec.json.decode(msgspec.json.encode(found), type=Policy) == found


def test_every_option_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "bubblewrap-options.md"
    named = set(re.findall(r"--[a-z][a-z0-9-]*", page.read_text()))
    assert set(OPTIONS) - named == set()
    assert named - set(OPTIONS) == set()
