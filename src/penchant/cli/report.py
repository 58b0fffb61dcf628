"""`penchant report`: one HTML page of a run."""

from penchant.cli.options import RunFolderPath


def report(run_folder: RunFolderPath) -> None:
    """Write report.html, one file that opens without a network."""
    from penchant.reports.html import write_report

    print(write_report(run_folder))
