"""Find the command that the arguments name, and run it."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

import interp
from interp import Encoding, Generation, InterpError, Rows, TrainConfig
from interp.cli.assets import AssetsFetch, AssetsList, AssetsShow, AssetsVerify
from interp.cli.atlas import MakeAtlas
from interp.cli.capturing import CaptureEncode, CaptureGenerate, Points, Target, Which
from interp.cli.comparing import Compare, Measures
from interp.cli.health import Doctor
from interp.cli.matching import SAEMatch, SAEShares
from interp.cli.pages import DashboardBuild, DashboardServe, Demo
from interp.cli.sae import SAECard, SAEConvert, SAEFormats, SAEPush, SAEShow
from interp.cli.saes import Describe, Evaluate, Train, read_options, write_options
from interp.cli.steering import Steer
from interp.cli.stores import StoreInfo, StoreList, StoreMerge, StoreRemove, StoreVerify
from interp.cli.sweeping import Sweep
from interp.cli.zoo import ZooCard, ZooEvaluate, ZooList, ZooTrain

DESCRIPTION = """Read, decompose, edit and compare the activations of generative vision models.

Start with `interp demo`: it runs the whole job on the models in the box, on a CPU, offline.
`--config FOLDER` repeats a store or a training run with its own settings; options override them.
Models are named zoo:<name> (in the box: `interp zoo list`), asset:<name> (fetched by you),
diffusers:<id or folder>, transformers:<id or folder> or lens:<id or folder>;
`interp points MODEL` lists what can be read."""


Tree = dict[str, Any]
# A command, or a group of commands with what the group is about.
COMMANDS: Tree = {
    "demo": Demo,
    "points": Points,
    "capture": (
        "Store activations of a model: while it makes images, or while it looks at them.",
        {"generate": CaptureGenerate, "encode": CaptureEncode},
    ),
    "store": (
        "Look after activation stores.",
        {
            "ls": StoreList,
            "info": StoreInfo,
            "verify": StoreVerify,
            "merge": StoreMerge,
            "rm": StoreRemove,
        },
    ),
    "train": Train,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "describe": Describe,
    "steer": Steer,
    "sae": (
        "SAEs as files: of this library and of others, cards, the hub.",
        {
            "show": SAEShow,
            "formats": SAEFormats,
            "convert": SAEConvert,
            "card": SAECard,
            "push": SAEPush,
            "match": SAEMatch,
            "shares": SAEShares,
        },
    ),
    "atlas": MakeAtlas,
    "compare": Compare,
    "measures": Measures,
    "dashboard": (
        "Build and show pages of features and comparisons.",
        {"build": DashboardBuild, "serve": DashboardServe},
    ),
    "zoo": (
        "The models in the box.",
        {"list": ZooList, "card": ZooCard, "train": ZooTrain, "evaluate": ZooEvaluate},
    ),
    "assets": (
        "Real pretrained models that you may fetch.",
        {"list": AssetsList, "show": AssetsShow, "fetch": AssetsFetch, "verify": AssetsVerify},
    ),
    "doctor": Doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit status: 0 for success, 1 where a check found problems, 2 for bad input, 130 where
        the user stopped it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(_parse(arguments).run() or 0)
    except InterpError as error:
        print(f"interp: {_name_options(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe has had enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interp: stopped; what is finished is kept, a rerun continues", file=sys.stderr)
        return 130


def _name_options(text: str) -> str:
    """An error of the library with options in place of arguments that commands share."""
    text = re.sub(r"\ballow_train=True( \(--allow-train\))?", "--allow-train", text)
    return re.sub(r"\bencoder=(?=\S)", "--encoder ", text)


def _parse(arguments: list[str]) -> Any:
    tree, program, about = COMMANDS, "interp", DESCRIPTION
    # Groups are walked by hand, so that `interp store --help` lists the group alone.
    while arguments and isinstance(tree.get(arguments[0]), tuple):
        about, inner = tree[arguments[0]]
        program, tree, arguments = f"{program} {arguments[0]}", inner, arguments[1:]
    kinds: Any = reduce(or_, (_subcommand(name, entry) for name, entry in tree.items()))
    arguments, default = _take_config(arguments)
    more = {} if default is None else {"default": default}
    more["registry"] = registry = ConstructorRegistry()
    registry.primitive_rule(_options_rule)
    return tyro.cli(kinds, prog=program, description=about, args=arguments, **more)


def _options_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """`--options l1=0.01 dead=resample ...` where a command takes a dict."""
    if info.type_origin is not dict:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE ...",
        instance_from_str=read_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=write_options,
    )


def _subcommand(name: str, entry: Any) -> Any:
    if not isinstance(entry, tuple):
        return Annotated[entry, subcommand(name, prefix_name=False)]
    # Stands in the list of `interp --help`; `_parse` enters the group before tyro sees its name.
    group = dataclass(frozen=True)(type(name.title(), (), {"__doc__": entry[0]}))
    return Annotated[group, subcommand(name, prefix_name=False)]


def _take_config(arguments: list[str]) -> tuple[list[str], Any]:
    """Take `--config PATH` out: a store or run directory whose settings become the defaults."""
    if "--config" not in arguments:
        return arguments, None
    place = arguments.index("--config")
    if place + 1 >= len(arguments):
        raise InterpError("--config needs the folder of a store or of a training run")
    path = Path(arguments[place + 1])
    rest = arguments[:place] + arguments[place + 2 :]
    if (path / "manifest.json").is_file():
        return rest, capture_command(interp.open_store(path, partial=True))
    if (path / "config.json").is_file():
        return rest, train_command(path)
    raise InterpError(
        f"{path} is neither a store nor a training run; --config takes the folder of either"
    )


def capture_command(store: Any) -> CaptureGenerate | CaptureEncode:
    """Return the command that makes a store anew, beside the store itself."""
    manifest = store.manifest
    fields = {key: value for key, value in store.recipe.items() if key != "kind"}
    target = Target(
        points=tuple(point.name for point in manifest.points),
        rows=Rows.from_json(json.dumps(manifest.rows)),
        out=store.path.parent,
        shard_size=manifest.shard_size,
    )
    which = Which(store.model["untrained"], store.model.get("seed", 0), dtype=store.model["dtype"])
    if store.recipe["kind"] == "generation":
        recipe = Generation.from_json(json.dumps(fields))
        return CaptureGenerate(store.model["spec"], recipe, target, which)
    recipe = Encoding.from_json(json.dumps(fields))
    return CaptureEncode(store.model["spec"], recipe, target, which)


def train_command(run_dir: Path) -> Any:
    """Return the command with a run's settings; the store has to be named again."""
    config = TrainConfig.load(run_dir)
    provenance = json.loads((run_dir / "config.json").read_text())["provenance"]
    sites = [
        site["point"]["name"] + ("" if site["call"] is None else f"@{site['call']}")
        for site in provenance.get("sites", ())
    ]
    if "target" in provenance:
        return Train(tyro.MISSING, (sites[0],), target=sites[1], config=config)
    if sites:
        return Train(tyro.MISSING, tuple(sites), sites=True, config=config)
    return Train(tyro.MISSING, (provenance["point"]["name"],), config=config)
