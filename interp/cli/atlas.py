"""`interp atlas`."""

import dataclasses
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from interp.atlas import AtlasConfig, PublicConfig, atlas, read_prompts
from interp.cli.show import print_table
from interp.dashboards import build_atlas_page

LEGEND = """
alpha: donor share, 0 recipient, 1 donor [95 % over pairs]; damage: share of neither; S: the
smallest alpha over the attributes; d*: directions of a source that keep 95 % of its swap; d_img:
directions that the images themselves need; band twins: stages that only deal out frequencies by
their grid sizes"""


@dataclass(frozen=True)
class MakeAtlas:
    """Swap every carrier of a model between its images, and say what each decides.

    Sources (z, x_T, text, class), what stages and kinds of modules write, and block outputs are
    swapped between disjoint pairs of images, beside random pushes, untrained twins and reference
    levels; two verdicts follow a committed rule. The planted controls run first. The folder gets
    atlas.json, its images and the page; a run that was stopped goes on from its parts. Minutes on
    two cores for the models in the box.

    Example: interp atlas zoo:gan --quick

    Example: interp atlas zoo:ddpm --out atlas-ddpm

    Example: interp atlas diffusers:FOLDER --prompts-file prompts.txt --steps 10 --device cuda
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """zoo:gan, diffusers:<id or folder>, ...: what makes images."""
    out: Path = Path("atlas")
    """Folder of the result."""
    prompts_file: str = ""
    """File with one text per line, for models that take texts; none: captions, or the public
    experiment's "{object} in the {background}, {style}"."""
    public: str = ""
    """Follow the public experiment's protocol too, on its factorial prompts: small or large (long
    lists; 500 pairs and 50 steps but for --n-pairs, --steps and --guidance); empty: no."""
    config: Annotated[AtlasConfig, arg(name="")] = field(default_factory=AtlasConfig)

    def run(self) -> None:
        """Print the table, the verdicts and the page's path."""
        config = self.config
        if self.prompts_file:
            config = dataclasses.replace(config, prompts=read_prompts(self.prompts_file))
        found = atlas(
            self.model,
            config,
            self.out,
            public=self.public_config() if self.public else None,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
            starting=_show_running if sys.stderr.isatty() else None,
            made_by=self.command_line(),
        )
        print_table(table_rows(found))
        print(LEGEND)
        if any(arm.name == "shared noise" for arm in found.arms):
            print("shared noise: a source that is all that differs has alpha 1 by construction")
        print()
        print(found.verdict.text if found.verdict else "no verdict")
        for line in found.warnings:
            print(f"Note: {line}")
        print(f"\n{found.scope}\n")
        print(self.out / "atlas.json")
        print(build_atlas_page(self.out))

    def public_config(self) -> PublicConfig:
        """Return the protocol's settings, with those options that were given."""
        config = self.config
        given = {
            one.name: getattr(config, one.name)
            for one in dataclasses.fields(config)
            if one.name in ("n_pairs", "steps", "guidance", "scheduler")
            and getattr(config, one.name) != one.default
        }
        return PublicConfig(prompts=self.public, **given)

    def command_line(self) -> str:
        """Return the command with the options that differ from their defaults."""
        words = ["interp", "atlas", self.model]
        if self.prompts_file:
            words += ["--prompts-file", self.prompts_file]
        if self.public:
            words += ["--public", self.public]
        for one in dataclasses.fields(self.config):
            value = getattr(self.config, one.name)
            if value == one.default:
                continue
            name = one.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
                continue
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)


def _show_running(label: str) -> None:
    """On a terminal, the running stage on the line that its seconds will take."""
    width = shutil.get_terminal_size().columns - 1
    print(f"      ...  {label}"[:width], end="\r", file=sys.stderr, flush=True)


def table_rows(found: Any) -> list[tuple[str, ...]]:
    """Return donor shares with intervals and damage by carrier as text."""
    names = [one.name for one in found.attributes]
    rows = [("carrier", "role", "arm", *(f"{name}: alpha, damage" for name in names))]
    for row in found.carriers:
        cells = (row.effects[name] for name in names)
        rows.append((row.name, row.role, row.arm, *(_cell(cell) for cell in cells)))
    return rows


def _cell(cell: Any) -> str:
    alpha = cell.alpha
    return (
        f"{_text(alpha.value)} [{_text(alpha.low)}, {_text(alpha.high)}], "
        f"{_text(cell.damage.value)}"
    )


def _text(value: float | None) -> str:
    # No "-0.00".
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"
