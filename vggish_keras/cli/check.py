"""The command `check`."""

import click

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import weights_option
from vggish_keras.cli.tables import print_table


@click.command(short_help="Compare the embeddings with published values.")
@weights_option
def check(weights: str) -> None:
    """Run the published smoke test and compare the results with the published values."""
    load_tensorflow()
    from rich.table import Table

    from vggish_keras.smoke_test import smoke_test

    statistics = smoke_test(weights)
    table = Table("statistic", "expected", "measured", "within 10%")
    for statistic in statistics:
        agrees = "yes" if statistic.within_tolerance else "NO"
        table.add_row(statistic.name, f"{statistic.expected:.4g}", f"{statistic.measured:.4g}", agrees)
    print_table(table)
    if not all(statistic.within_tolerance for statistic in statistics):
        raise click.ClickException(f"weights {weights} do not reproduce the published values")
