"""`workbench verify` and `workbench export`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from workbench.command import parse, polite


@dataclass
class VerifyConfig:
    """Check a data set made here, in any of its forms: checksums, counts, labels, names. Exits with 1 if it is damaged.

    workbench verify data/generated
    """

    data: tyro.conf.Positional[Path]
    """The data set's folder."""


@dataclass
class ExportConfig:
    """Convert a data set made here to another form, which reads back equal.

    workbench export data/generated --format parquet --output data/generated-parquet
    """

    data: tyro.conf.Positional[Path]
    """The data set's folder, in any form."""
    format: Literal["folder", "parquet", "webdataset"]
    output: Path
    """The new folder."""
    overwrite: bool = False
    """Replace the data set that the output folder holds."""


def verify(arguments: Sequence[str] | None = None, program: str = "workbench verify") -> None:
    """Print the verdict; exits with 1 when the data set is damaged."""
    with polite():
        config = parse(VerifyConfig, arguments, program)
        from workbench.verify import verify

        report = verify(config.data)
        print(report.summary())
        raise SystemExit(not report.ok)


def export(arguments: Sequence[str] | None = None, program: str = "workbench export") -> None:
    """Convert a data set."""
    with polite():
        config = parse(ExportConfig, arguments, program)
        from workbench.convert import convert

        print(f"Done. {convert(config.data, config.output, config.format, overwrite=config.overwrite)}")
