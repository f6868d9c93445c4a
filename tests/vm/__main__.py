"""``cd tests && python -m vm``: fetch kernels, look into a scenario by hand.

  python -m vm list                          the scenarios
  python -m vm fetch [SCENARIO...]           kernels for VSBOX_VM_SCENARIOS, or for those named (ci, all)
  python -m vm run SCENARIO COMMAND [ARG...] one command as the ordinary user of that machine
"""

from __future__ import annotations

import sys

from vm import apparmor, kernels, machine
from vm.debian import FetchError
from vm.scenarios import PROFILED, SCENARIOS, Profiled, Scenario, chosen, named, profiled


def fetch(scenarios: tuple[Scenario | Profiled, ...]) -> None:
    for series in dict.fromkeys(scenario.kernel for scenario in scenarios):
        print(f"Linux {kernels.fetch(series).release}", file=sys.stderr)
    suites = {scenario.suite for scenario in scenarios if isinstance(scenario, Profiled)}
    for suite in suites | {apparmor.SUITE for scenario in scenarios if scenario.policy}:
        apparmor.fetch(suite)


def run(name: str, argv: list[str]) -> int:
    (scenario,) = (*named([name]), *profiled([name]))
    fetch((scenario,))
    done = machine.run(kernels.fetch(scenario.kernel), scenario.setting(), argv)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def main(argv: list[str]) -> int:
    try:
        match argv:
            case ["list"]:
                for scenario in (*SCENARIOS, *PROFILED):
                    print(f"{scenario.name:22} Linux {scenario.kernel:7} {'ci' if scenario.ci else ''}".rstrip())
            case ["fetch", *names]:
                fetch((*named(names), *profiled(names)) if names else (*chosen(), *profiled()))
            case ["run", name, program, *arguments]:
                return run(name, [program, *arguments])
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (FetchError, machine.MachineError) as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
