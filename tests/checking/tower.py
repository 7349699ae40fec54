"""The checker of annotations: as PEP 484 has it, a whole number will do where a float is asked."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
