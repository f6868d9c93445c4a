"""What a malicious dependency would try. Targets are canaries that run.sh made; prints one line each."""

import os
import signal
import sys

directory, process = sys.argv[1], int(sys.argv[2])


def steal_a_key():
    """Read a private key in the user's home."""
    with open(f"{directory}/id_ed25519") as key:
        return key.read()


def plant_a_backdoor():
    """Append a command to a file that the user's shell would run."""
    with open(f"{directory}/bashrc", "a") as startup:
        startup.write("echo pwned\n")


def kill_another_program():
    """End a process of the user's."""
    os.kill(process, signal.SIGTERM)


for attack in (steal_a_key, plant_a_backdoor, kill_another_program):
    try:
        attack()
        print(f"{attack.__name__}: SUCCEEDED")
    except OSError as error:
        print(f"{attack.__name__}: denied ({error.strerror})")
