"""`workbench doctor` and `workbench env`."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.command import parse, polite


@dataclass
class DoctorConfig:
    """Find what is wrong with this installation, and say how to mend it. Downloads nothing.

    workbench doctor
    """


@dataclass
class EnvConfig:
    """Say what a bug report should say about this machine.

    workbench env --json
    """

    json: bool = False
    """Print one JSON object."""


def doctor(arguments: Sequence[str] | None = None, program: str = "workbench doctor") -> None:
    """Print every finding; exits with 1 when something must be mended."""
    with polite():
        parse(DoctorConfig, arguments, program)
        from workbench.doctor import main_doctor

        raise SystemExit(main_doctor())


def env(arguments: Sequence[str] | None = None, program: str = "workbench env") -> None:
    """Print the environment."""
    with polite():
        config = parse(EnvConfig, arguments, program)
        from workbench.doctor import main_env

        raise SystemExit(main_env(config.json))
