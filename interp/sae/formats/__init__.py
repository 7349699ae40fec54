"""SAEs of other libraries: `load_sae` reads eight layouts and our own, `save_sae` writes them.

    sae = load_sae("SAEs/mid_block")           # recognizes whose it is
    save_sae(sae, "elsewhere", "saelens")

No format changes a number: where a library computes something that no variant here does, the
result is an `Imported` SAE that does, and what cannot be had exactly is an error that says why.
README.md beside this file has the table.
"""

from interp.sae.formats.folding import fold
from interp.sae.formats.imported import Imported
from interp.sae.formats.table import FORMATS, detect_format, load_sae, save_sae

__all__ = ["FORMATS", "Imported", "detect_format", "fold", "load_sae", "save_sae"]
