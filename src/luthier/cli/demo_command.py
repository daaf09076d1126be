"""`luthier demo`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import set_option

EXAMPLE = "Delivery took two weeks, but I love this lamp and would buy it again."


@click.command(name="demo")
@set_option
def command(overrides: tuple[str, ...]) -> None:
    """Fine-tune MiniLM on the 1,260 reviews shipped with Luthier: offline, on a CPU, in about a minute."""
    from luthier.models.source import ALIASES
    from luthier.recipe import load_recipe
    from luthier.registry import require

    if not any(text.startswith("model") for text in overrides):
        require(ALIASES["minilm"][0], extra="minilm", purpose="the demo")
    import luthier

    resolved = load_recipe(Path(luthier.__file__).parent / "starters" / "demo.yaml", overrides=overrides)
    from luthier.cli.screen import Screen, console, show_run
    from luthier.workflow.measure import predict
    from luthier.workflow.train import start

    with Screen() as screen:
        run = start(resolved, listener=screen)
    show_run(run)
    answer = predict(run, [EXAMPLE])[0]
    console.print(f'example "{EXAMPLE}"\n        → {answer["label"]} ({answer["score"]:.0%})', highlight=False, markup=False)
    console.print(f'next    luthier predict {run.id} "your own text"', highlight=False, markup=False)
