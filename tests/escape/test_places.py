"""Where a command is started, what it is told to run and what a grant has become since: none of it opens more."""

from __future__ import annotations

import os

import pytest

LIST = "import os; print(sorted(os.listdir('.')))"
READ = "import sys; print(open(sys.argv[1]).read())"


def test_home_as_working_directory_stays_private(canaries, box):
    for code, argument in ((LIST, ""), (READ, canaries.home_file.name)):
        shown = box.python(code, argument, cwd=box.person.home)
        assert canaries.mark not in shown.stdout
    control = box.person.run([box.root / "inside" / "bin" / "python", "-c", LIST], cwd=box.person.home)
    assert canaries.home_file.name in control.stdout


def test_home_named_by_the_environment_stays_private(canaries, box):
    """In containers and under sudo the home directory is where $HOME says, not where the user database does."""
    outside = canaries.directory()
    done = box.python(READ, "secret", cwd=outside, env=box.person.environment | {"HOME": str(outside)})
    assert canaries.mark not in done.stdout


@pytest.mark.parametrize("place", ["/", "/tmp", "/etc", "/proc", "/home", "/run", "/var"])
def test_shared_places_stay_private(canaries, box, place):
    done = box.python(READ, canaries.facts["tmp_file"], cwd=place)
    assert canaries.mark not in done.stdout
    shadow = box.python(READ, "shadow" if place == "/etc" else "etc/shadow", cwd=place)
    assert "PermissionError" in shadow.stderr or "FileNotFoundError" in shadow.stderr


def test_dot_directories_of_the_home_stay_private(canaries, box):
    place = canaries.home_file.parent / f".dir-{canaries.mark}"
    (place / "below").mkdir(parents=True, exist_ok=True)
    canaries.made.append(place)
    for directory in (place, place / "below"):
        os.chown(directory, box.person.uid, box.person.gid)
        box.person.write(directory / "secret", canaries.mark)
        assert canaries.mark not in box.python(READ, "secret", cwd=directory).stdout


def test_a_project_is_readable_and_not_writable(canaries, box):
    project = canaries.directory()
    assert box.python(READ, "secret", cwd=project).stdout == f"{canaries.mark}\n"
    done = box.python("open('new', 'w')", cwd=project)
    assert "PermissionError" in done.stderr or "Read-only file system" in done.stderr
    assert not (project / "new").exists()


def test_siblings_of_the_working_directory_are_closed(canaries, box):
    project, other = canaries.directory(), canaries.directory()
    assert canaries.mark not in box.python(READ, f"../{other.name}/secret", cwd=project).stdout


def test_a_working_directory_that_was_swapped(canaries, box):
    """The shell stands in a directory that was renamed; its old name is a link to a secret place now."""
    standing, secret = canaries.directory(), canaries.directory()
    code = (
        "import os, subprocess, sys\n"
        "old, secret, *argv = sys.argv[1:]\n"
        "os.chdir(old); os.rename(old, old + '-moved'); os.symlink(secret, old)\n"
        "os.environ['PWD'] = old\n"
        "sys.exit(subprocess.run(argv).returncode)\n"
    )
    own = standing.with_name(standing.name + "-moved")
    canaries.made.append(own)
    (standing / "secret").write_text("mine")
    python = [box.bin / "python", "-c", "import os; print(open('secret').read())"]
    done = box.person.run([box.root / "inside" / "bin" / "python", "-c", code, standing, secret, *python])
    assert canaries.mark not in done.stdout
    through = box.python(READ, str(standing / "secret"), cwd=own)
    assert canaries.mark not in through.stdout
    standing.unlink()


def test_a_removed_working_directory(canaries, box):
    standing = canaries.directory()
    code = (
        "import os, shutil, subprocess, sys; shutil.rmtree('.', True); os.rmdir(os.getcwd())\n"
        "sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    )
    argv = [box.root / "inside" / "bin" / "python", "-c", code, box.bin / "python", "-c", "print(1)"]
    done = box.person.run(argv, cwd=standing)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("options", [[], ["-I"], ["-S", "-E"]])
def test_a_linked_script_is_not_followed(canaries, box, options):
    """Code inside left the link; the user runs it by its name."""
    outside, place = canaries.directory(), box.root / "home"
    box.person.write(outside / "secret.py", f"print('{canaries.mark}')\n")
    for link, target in (("link.py", outside / "secret.py"), ("linked", outside)):
        (place / link).unlink(missing_ok=True)
        (place / link).symlink_to(target)
    for name in (place / "link.py", place / "linked" / "secret.py", place / "linked" / "secret"):
        inside = box.person.run([box.bin / "python", *options, name])
        assert canaries.mark not in inside.stdout + inside.stderr
        assert inside.returncode == 2
    control = box.person.run([box.root / "inside" / "bin" / "python", *options, place / "link.py"])
    assert control.stdout == f"{canaries.mark}\n"


def test_a_script_named_in_full_opens_its_directory_only(canaries, box):
    outside, place = canaries.directory(), box.person.directory("escape-script")
    script = box.person.write(place / "script.py", "import os, sys\nprint('ran')\nprint(open(sys.argv[1]).read())\n")
    done = box.person.run([box.bin / "python", script, outside / "secret"], cwd="/")
    assert done.stdout == "ran\n"
    assert ("PermissionError" if box.backend == "landlock" else "FileNotFoundError") in done.stderr


def test_a_script_in_a_home_opens_itself_only(canaries, box):
    script = box.person.write(box.person.home / f"{canaries.mark}.py", "import sys\nprint('ran')\nopen(sys.argv[1])\n")
    done = box.person.run([box.bin / "python", script, canaries.home_file], cwd="/")
    script.unlink()
    assert done.stdout == "ran\n"
    assert ("PermissionError" if box.backend == "landlock" else "FileNotFoundError") in done.stderr


def test_an_argument_is_not_a_grant(canaries, box):
    outside = canaries.directory()
    for command in (["-c", READ], ["-m", "tokenize"], ["-"]):
        done = box.person.run([box.bin / "python", *command, outside / "secret"], input=READ)
        assert canaries.mark not in done.stdout + done.stderr


@pytest.mark.parametrize(("option", "component"), [("--allow", "last"), ("--allow-read", "middle")])
def test_a_grant_swapped_for_a_link(canaries, person, backend, make_box, option, component):
    base, secret = canaries.directory(), canaries.directory()
    (secret / "data").mkdir()
    person.write(secret / "data" / "secret", canaries.mark)
    (base / "granted" / "data").mkdir(parents=True)
    for path in (base / "granted", base / "granted" / "data", secret / "data"):
        os.chown(path, person.uid, person.gid)
    grant = base / "granted" / "data"
    box = make_box(person, backend, option, str(grant), fresh=True)
    person.write(grant / "mine", "mine")
    assert box.python(READ, str(grant / "mine")).stdout == "mine\n"
    swapped, target = (grant, secret / "data") if component == "last" else (grant.parent, secret)
    swapped.rename(base / "moved")
    swapped.symlink_to(target)
    assert person.run(["/bin/cat", grant / "secret"]).stdout == canaries.mark
    refused(box, canaries, grant)
    os.utime(box.root / "sandbox" / "sandbox.json", (1, 1))
    refused(box, canaries, grant)
    refused(box, canaries, grant)


def refused(box, canaries, grant):
    done = box.python(READ, str(grant / "secret"))
    assert done.returncode in {2, 125}
    assert canaries.mark not in done.stdout
    assert "link" in done.stderr


@pytest.mark.parametrize("place", ["inside", "home"])
def test_box_directories_swapped_for_links(canaries, person, backend, make_box, place):
    """What code inside may write to, its own trees, swapped as a whole for a link to the host."""
    box = make_box(person, backend, fresh=True)
    outside = canaries.directory()
    (box.root / place).rename(box.root / "moved")
    (box.root / place).symlink_to(outside)
    reads = f"cat {box.root}/secret {box.root}/home/secret {outside}/secret"
    done = box.exec("/bin/sh", "-c", f"{reads}; echo x > {outside}/planted")
    assert canaries.mark not in done.stdout
    assert not (outside / "planted").exists()
    assert done.returncode == 125
