r"""Draws runs over one another, in one plot and one page: losses, rates, speed.

openba-report runs/small runs/other --output=runs/report

The first run is the one that others are compared with. Runs may still be at work; nothing is
written into their folders.

    OUTPUT/report.png, report.md, report.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from openba_jax import cli


def main(argv: Sequence[str]) -> None:
    """Reports the runs that are named on the command line."""
    from openba_jax.errors import UserError
    from openba_jax.files import write_atomically
    from openba_jax.paths import check_output_folder, local, reject_overlap
    from openba_jax.report import page, plots
    from openba_jax.report.runs import read_runs
    from openba_jax.report.tables import tables

    if len(argv) < 2:
        raise UserError("name one or more run folders, such as `openba-report runs/small`.")
    output, over = check_output_folder(local(flags.FLAGS.output)), flags.FLAGS.over
    for run in argv[1:]:
        reject_overlap(local(run), output, "folder of a run")
    runs = read_runs(argv[1:])
    found = tables(runs, over)
    image = output / "report.png"
    plots.plot(runs, image, over)
    title = f"Run {runs[0].name}" if len(runs) == 1 else "Runs"
    markdown = [f"# {title}", "", f"![the runs over {over}]({image.name})", ""]
    body = [page.image_html(image)]
    for table in found:
        markdown += page.table_markdown(table)
        body += page.table_html(table)
    write_atomically(output / "report.md", "\n".join(markdown).rstrip() + "\n")
    write_atomically(output / "report.html", page.page(title, body))
    sys.stdout.write("\n".join(page.table_text(found[0].rows)) + "\n")
    sys.stdout.write(f"report: {output / 'report.md'}, report.html, report.png\n")


def run() -> None:
    """Entry point."""
    flags.DEFINE_string("output", "report", "Folder for the report.")
    flags.DEFINE_enum("over", "tokens", ["tokens", "steps"], "What is drawn over.")
    cli.run(main)


if __name__ == "__main__":
    run()
