"""List what there is to name in a recipe or a command."""

import json

import click


@click.command(short_help="List the names there are: datasets, models and so on.")
@click.argument("kind", required=False, metavar="[datasets|subsets|models|methods|scores|backends|launchers|recipes]")
@click.option("--json", "as_json", is_flag=True, help="For programs: {kind: {name: line}}.")
def command(kind: str | None, as_json: bool) -> None:
    """List the datasets, subsets, models, methods, scores, loader backends, launchers and recipes that there are."""
    from harness import catalogue, console
    from writers import names

    if kind is not None and kind not in catalogue.KINDS:
        raise names.unknown("catalogue", kind, catalogue.KINDS)
    found = {one: catalogue.entries(one) for one in ([kind] if kind else catalogue.KINDS)}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    terminal = console.out()
    for one, lines in found.items():
        if kind is None:
            terminal.print(f"[bold]{one}[/bold]")
        width = max(map(len, lines), default=0)
        for name, line in lines.items():
            terminal.print(f"  {name:{width}}  {line}".rstrip(), markup=False, soft_wrap=True)
