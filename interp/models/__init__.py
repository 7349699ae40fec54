"""Reach into a network: hook points, reading and editing; one file per family of networks."""

from interp.models.bridge import Bridge
from interp.models.custom import Adapter, Custom
from interp.models.editing import Call, editing
from interp.models.encoder import Encoder
from interp.models.gan import GAN
from interp.models.inputs import (
    EncodeBatch,
    Encoding,
    GenerateBatch,
    Generation,
    Rows,
    noise_seed,
)
from interp.models.inversion import (
    Inversion,
    InversionSettings,
    invert,
    regenerate,
    restoring,
)
from interp.models.model import Model
from interp.models.points import HookPoint, Site
from interp.models.reading import Read, Reader, reading
from interp.models.recording import Record, recording
from interp.models.replaying import replaying, work_left
from interp.models.rows import from_rows, to_rows
from interp.models.samples import Origin, find_origin
from interp.models.table import points_table
from interp.models.transformer import Transformer
from interp.models.unet import UNet
from interp.models.vae import VAE

# Each entry is also a case of the conformance suite (tests/models/test_conformance.py).
FAMILIES: dict[str, type[Model]] = {
    "unet": UNet,
    "transformer": Transformer,
    "vae": VAE,
    "gan": GAN,
    "encoder": Encoder,
    "bridge": Bridge,
    "custom": Custom,
}

__all__ = [
    "FAMILIES",
    "GAN",
    "VAE",
    "Adapter",
    "Bridge",
    "Call",
    "Custom",
    "EncodeBatch",
    "Encoder",
    "Encoding",
    "GenerateBatch",
    "Generation",
    "HookPoint",
    "Inversion",
    "InversionSettings",
    "Model",
    "Origin",
    "Read",
    "Reader",
    "Record",
    "Rows",
    "Site",
    "Transformer",
    "UNet",
    "editing",
    "find_origin",
    "from_rows",
    "invert",
    "noise_seed",
    "points_table",
    "reading",
    "recording",
    "regenerate",
    "replaying",
    "restoring",
    "to_rows",
    "work_left",
]
